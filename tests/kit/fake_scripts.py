"""What the scripted model plays: conversations, broken streams and HTTP faults, by name.

Knows nothing of HTTP or of any wire protocol (fake_model.py does). Keeps: a conversation is a pure
function of its name and parameters, so the same request always gets the same answer, and its token
figures can be computed beforehand (`usage`).

A step is one turn of the model, a list of parts: ("text", s), ("think", s) or ("tool", kind, args)
with kinds bash{command, background?, timeout?}, write{path, content}, edit{path, old, new}.
"""
import json

GIT = "git -c user.name=fake-model -c user.email=fake@model.invalid "
LIMIT_MS = 600_000  # the longest time-out that the CLIs accept for one tool call


def text(s):
    return ("text", s)


def bash(command, **more):
    return ("tool", "bash", dict(command=command, **more))


def commit(message):
    return bash("git add -A && %scommit -q -m '%s' && git rev-parse --short HEAD" % (GIT, message.replace("'", "")))


def wait(seconds):
    """A shell command that takes that long. Not `sleep`: claude refuses it as a tool command."""
    return "timeout --foreground %s tail -f /dev/null" % seconds


def steps(name, p):
    """The turns of a conversation, or None where no conversation has this name."""
    file = p.get("file", "fake.txt")
    done = [text("Done: committed " + file + ".")]
    n = int(p.get("n", "10"))
    seconds = p.get("s", "300")
    table = {
        # Good runs. `edit` is the reference: 4 turns, 4600 tokens in.
        "edit": lambda: [
            [text("I will create the file."), ("tool", "write", {"path": file, "content": "hello from the fake model\n"})],
            [("tool", "edit", {"path": file, "old": "hello from the fake model", "new": "hello, edited by the fake model"})],
            [text("Now I commit."), commit("fake-model: add " + file)],
            done],
        "bash-edit": lambda: [[bash("printf 'hello from the fake model\\n' > " + file)], [commit("fake-model: add " + file)], done],
        "long-tool": lambda: [
            # A tool call that lasts until somebody makes the file `go`.
            [bash("echo started > tool-started; until [ -e go ]; do %s; done; echo finished" % wait("0.1"), timeout=LIMIT_MS)],
            [bash("rm tool-started go; echo once >> " + file)], [commit("fake-model: add " + file)], done],
        "work": lambda: [[text("Step %d." % i), bash("echo step %d >> work.log" % i)] for i in range(1, n + 1)] + [[commit("work")], done],
        "question": lambda: [
            # Asks a person, and does what the answer says.
            [bash("echo 'Which one?' > \"$HARNESS_INTERRUPT\"")],
            [bash("cat \"$HARNESS_SESSION_DIR/answer.md\" > " + file)], [commit("as told")], done],
        "noop": lambda: [[text("I looked and decided to change nothing.")]],
        "think": lambda: [[("think", "Let me think about this."), text("Thought about it. Done.")]],
        # Agents that misbehave.
        "dirty": lambda: [[bash("printf 'uncommitted\\n' > " + file)], [text("Done (but I forgot to commit).")]],
        "tool-error": lambda: [[bash("echo oops >&2; exit 3")], [text("The command failed, giving up.")]],
        "many-turns": lambda: [[bash("echo turn %d" % i)] for i in range(1, n + 1)] + [[text("Done.")]],
        "expensive": lambda: [[bash("echo turn")]] * 3 + [[text("Expensive, done.")]],
        "daemon": lambda: [[bash("setsid nohup %s >/dev/null 2>&1 & echo left $!" % wait(seconds))], [text("Done, and I left something running.")]],
        "background": lambda: [[bash(wait(seconds), background=True)], [text("Started it in the background.")]],
        "big-text": lambda: [[text("x" * int(p.get("n", "2000000")))]],
        "unicode": lambda: [[text("snow \u2603 rocket \U0001F680 ls \u2028 nel \u0085 quote \" back \\ tab \t end")]],
        "refusal": lambda: [[text("I can't help with that.")]],
        "max-tokens": lambda: [[text("This answer is cut sh")]],
    }
    return table[name]() if name in table else None


def usage(name, step, results):
    """Tokens (in, out) of one turn; `results`: how many tool results the request held."""
    if name == "expensive":
        return 900_000, 90_000
    return 1000 + 100 * results, 20 + sum(len(json.dumps(part)) // 4 for part in step)


# Streams that go wrong after some good events, or before any.
STREAM_FAULTS = {
    "hang": "accepts the request and never answers",
    "stall": "sends the first events, then nothing; the connection stays open",
    "slow": "an endless slow stream of text",
    "drop": "resets the connection in mid-stream, every time",
    "drop-early": "resets the connection before any byte of an answer",
    "truncate": "ends the stream cleanly, but without its closing events",
    "garbage": "a line that is no JSON in mid-stream",
    "html": "answers 200 with an HTML page, as captive portals do",
}

# name: (status, error type, message, headers). {ra}: seconds to wait, {reset}: unix time of a reset.
HTTP_FAULTS = {
    "http400": (400, "invalid_request_error", "something is wrong with this request", {}),
    "too-long": (400, "invalid_request_error", "prompt is too long: 213456 tokens > 200000 maximum", {}),
    "credit": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.", {}),
    "http401": (401, "authentication_error", "invalid x-api-key", {}),
    "http403": (403, "permission_error", "Your API key does not have permission to use the specified resource.", {}),
    "http404": (404, "not_found_error", "model: no-such-model", {}),
    "http429": (429, "rate_limit_error", "This request would exceed your organization's rate limit.", {"retry-after": "{ra}"}),
    "usage-limit": (429, "rate_limit_error", "This request would exceed your account's rate limit. Please try again later.", {
        "retry-after": "{ra}", "x-should-retry": "false",
        "anthropic-ratelimit-unified-status": "rejected",
        "anthropic-ratelimit-unified-reset": "{reset}",
        "anthropic-ratelimit-unified-representative-claim": "five_hour",
        "anthropic-ratelimit-unified-overage-status": "rejected",
        "anthropic-ratelimit-unified-overage-disabled-reason": "out_of_credits"}),
    "http500": (500, "api_error", "Internal server error", {}),
    "http503": (503, "api_error", "Service unavailable", {}),
    "http529": (529, "overloaded_error", "Overloaded", {"retry-after": "{ra}"}),
}

# What services of the OpenAI kind answer instead: (status, the error object).
OPENAI_FAULTS = {
    "http401": (401, {"message": "Incorrect API key provided: fake.", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}),
    "http404": (404, {"message": "The model `no-such-model` does not exist or you do not have access to it.", "type": "invalid_request_error", "param": None, "code": "model_not_found"}),
    "http429": (429, {"message": "Rate limit reached for requests. Please try again in {ra}s.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}),
    "too-long": (400, {"message": "Your input exceeds the context window of this model. Please adjust your input and try again.", "type": "invalid_request_error", "param": "input", "code": "context_length_exceeded"}),
    "credit": (429, {"message": "You exceeded your current quota, please check your plan and billing details.", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}),
    "usage-limit": (429, {"message": "The usage limit has been reached", "type": "usage_limit_reached", "plan_type": "pro", "resets_at": "{reset}", "resets_in_seconds": 3600}),
}

# And Gemini's: (status, message, its name of the status, details).
_QUOTA = (429, "You exceeded your current quota, please check your plan and billing details.", "RESOURCE_EXHAUSTED", [
    {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel", "quotaValue": "50"}]}])
GEMINI_FAULTS = {
    "http401": (400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT", [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]),
    "http429": (429, "Resource has been exhausted (e.g. check quota).", "RESOURCE_EXHAUSTED", [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "{ra}s"}]),
    "usage-limit": _QUOTA,
    "credit": _QUOTA,
}
