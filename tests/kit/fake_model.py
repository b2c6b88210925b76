#!/usr/bin/env python3
"""A scripted model API on loopback, for driving the real agent CLIs without a key or a network.

    python3 fake_model.py --script edit --with-parent      prints its port as the first line

One process speaks four protocols, so that one serves every CLI: Anthropic Messages (claude), OpenAI
Responses (codex), OpenAI Chat Completions (opencode, qwen) and Gemini's generateContent.

Which script of fake_scripts.py a request plays, first hit wins: `[[fake:NAME k=v]]` in the user's
prompt; `/s/NAME,k=v` in front of the base URL's path; --script. FAULT-then-NAME fails times=N (2)
times for a session and is good from then on; FAULT with at=N is good for the first N turns.

It is stateless: which turn to play is the number of tool results since the user last spoke. Only
`-then-` scripts are counted. Any key is accepted. --log FILE: one JSON line for each request, with
the tokens that were served. Ends after --lifetime, on SIGTERM, and --with-parent with its parent.
"""
import argparse, gzip, hashlib, json, os, re, socket, struct, sys, threading, time, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.dont_write_bytecode = True  # nothing is left behind in the repository
import fake_protocols
import fake_scripts as scripts

ARGS = None
LOCK = threading.Lock()
FAILURES = {}  # (session, fault) -> how often it was served


fresh = fake_protocols.fresh


def parse_spec(spec):
    name, *rest = re.split(r"[,\s]+", spec.strip())
    return name, dict(pair.split("=", 1) for pair in rest if "=" in pair)


class Request:
    """What scripts need to know of a request, whatever its protocol."""

    def __init__(self, protocol, body, headers):
        self.body, self.stream = body, bool(body.get("stream"))
        self.model = body.get("model") or "fake-model"
        self.tools, self.instructions, self.session = {}, "", ""
        self.first = self.last = ""  # what the user said first, and last
        self.results = 0  # rounds of tool results since then
        getattr(self, "read_" + protocol)(body, headers)
        self.session = self.session or hashlib.sha1(self.first.encode("utf-8", "replace")).hexdigest()[:16]

    def user_said(self, text):
        # Reminders that a CLI adds by itself are not the user speaking.
        if re.sub(r"<system-reminder>.*?</system-reminder>", "", text, flags=re.S).strip():
            self.first, self.last, self.results = self.first or text, text, 0

    def read_anthropic(self, body, headers):
        self.tools = {t.get("name"): t for t in body.get("tools") or []}
        system = body.get("system") or ""
        self.instructions = system if isinstance(system, str) else joined(system)
        self.session = headers.get("x-claude-code-session-id", "")
        for message in body.get("messages") or []:
            content = message.get("content")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
            if message.get("role") == "user":
                if any(b.get("type") == "tool_result" for b in blocks):
                    self.results += 1
                # A conversation that is resumed in the middle of a turn: a result and a prompt.
                self.user_said(joined(b for b in blocks if b.get("type") == "text"))

    def read_responses(self, body, headers):
        self.session = headers.get("session_id") or headers.get("session-id") or ""
        self.instructions = body.get("instructions") or ""
        items = body.get("input") or []
        if isinstance(items, str):
            items = [{"type": "message", "role": "user", "content": items}]
        offered = list(body.get("tools") or [])
        after_result = False
        for item in items:
            kind = item.get("type", "message")
            if kind == "additional_tools":  # where codex puts them for its newest models
                offered += item.get("tools") or []
            elif kind.endswith("_call_output"):
                self.results += not after_result  # several results of one turn are one round
                after_result = True
            elif kind.endswith("_call") or kind == "reasoning":
                after_result = False
            elif kind == "message":
                content = item.get("content")
                text = content if isinstance(content, str) else joined(content)
                made_up = re.match(r"\s*(<(environment_context|user_instructions|permissions|INSTRUCTIONS)|# AGENTS\.md)", text)
                if item.get("role") == "user" and not made_up:
                    self.user_said(text)
                    after_result = False
                elif item.get("role") != "assistant":
                    self.instructions += "\n" + text
        for tool in offered:
            inner = tool.get("tools") if tool.get("type") == "namespace" else [tool]
            space = tool.get("name") if tool.get("type") == "namespace" else None
            self.tools.update({t.get("name") or t.get("type"): dict(t, namespace=space) for t in inner or []})

    def read_chat(self, body, _headers):
        self.tools = {t["function"]["name"]: t["function"] for t in body.get("tools") or [] if "function" in t}
        before = None
        for message in body.get("messages") or []:
            role, content = message.get("role"), message.get("content")
            text = content if isinstance(content, str) else joined(content)
            if role in ("system", "developer"):
                self.instructions += "\n" + text
            elif role == "user":
                self.user_said(text)
            elif role == "tool":
                self.results += before != "tool"
            before = role

    def read_gemini(self, body, _headers):
        for tool in body.get("tools") or []:
            self.tools.update({f["name"]: f for f in tool.get("functionDeclarations") or []})
        system = body.get("systemInstruction") or {}
        self.instructions = joined(system.get("parts"))
        for content in body.get("contents") or []:
            parts = content.get("parts") or []
            if content.get("role") != "user":
                continue
            if any("functionResponse" in part for part in parts):
                self.results += 1
                continue
            said = [p.get("text", "") for p in parts]
            own = ("<session_context>", "This is the Gemini CLI", "Setup the context", "<system-reminder>")
            self.instructions += "\n".join(s for s in said if s.lstrip().startswith(own))
            self.user_said("\n".join(s for s in said if not s.lstrip().startswith(own)))

    def cwd(self):
        """Where the CLI says it works: some tools want absolute paths."""
        seen = self.instructions + "\n" + self.first + json.dumps(self.body)[:200_000]
        found = re.search(r"(?:[Ww]orking directory(?: is)?|<cwd>|directory):?\s*`?(/[^\s`<\\\"]+)", seen)
        return found.group(1).rstrip(".") if found else None

    def spec(self, from_path):
        marked = re.search(r"\[\[fake:([^\]]+)\]\]", self.last) or re.search(r"\[\[fake:([^\]]+)\]\]", self.first)
        return parse_spec(marked.group(1) if marked else from_path or ARGS.script)

    def tool(self, kind, args):
        """(name, input) of the tool of this CLI that does it; its shell does what it has no tool for."""
        cwd, own = self.cwd(), self.tools
        path = args.get("path", "")
        full = path if path.startswith("/") or not cwd else os.path.join(cwd, path)
        if kind == "write":
            for name, key in (("Write", "file_path"), ("write_file", "file_path"), ("write", "filePath")):
                if name in own:
                    return name, {key: full, "content": args["content"]}
            return self.shell({"command": "printf %%s %s > %s" % (quoted(args["content"]), quoted(path))})
        if kind == "edit":
            old, new = args["old"], args["new"]
            if "Edit" in own:
                return "Edit", {"file_path": full, "old_string": old, "new_string": new}
            if "replace" in own:
                return "replace", {"file_path": full, "old_string": old, "new_string": new, "instruction": "change the greeting"}
            if "edit" in own:
                return "edit", {"filePath": full, "oldString": old, "newString": new}
            return self.shell({"command": "sed -i %s %s" % (quoted("s/%s/%s/" % (old, new)), quoted(path))})
        return self.shell(args)

    def shell(self, args):
        command = args["command"]
        extra = {"timeout": args["timeout"]} if "timeout" in args else {}
        if "Bash" in self.tools:  # claude
            if args.get("background"):
                extra["run_in_background"] = True
            return "Bash", dict(extra, command=command, description="Run a command")
        if "bash" in self.tools:  # opencode
            return "bash", dict(extra, command=command, description="Run a command")
        if "run_shell_command" in self.tools:  # gemini, qwen
            return "run_shell_command", {"command": command, "description": "Run a command", "is_background": bool(args.get("background"))}
        if "exec_command" in self.tools:  # codex
            return "exec_command", {"cmd": command, "yield_time_ms": 30000}
        if "shell_command" in self.tools:
            return "shell_command", {"command": command}
        raise LookupError("no shell tool known to the fake model is offered (codex: give it -m fake-model)")


def joined(blocks):
    return "\n".join(b.get("text") or "" for b in blocks or [] if isinstance(b, dict))


def quoted(s):
    return "'" + s.replace("'", "'\\''") + "'"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the CLI has gone: they all do, when they are killed
            self.close_connection = True

    def body(self):
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if (self.headers.get("transfer-encoding") or "").lower() == "chunked":
            while (size := int(self.rfile.readline().strip() or b"0", 16)) > 0:
                raw += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return gzip.decompress(raw) if self.headers.get("content-encoding") == "gzip" else raw

    def json(self, status, value, headers=None):
        self.raw(status, "application/json", json.dumps(value).encode(), headers)

    def raw(self, status, kind, data, headers=None):
        self.send_response(status)
        for key, value in {"content-type": kind, "content-length": str(len(data)), "request-id": fresh("req_"), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def open_stream(self):
        self.send_response(200)
        for key, value in (("content-type", "text/event-stream; charset=utf-8"), ("request-id", fresh("req_")), ("transfer-encoding", "chunked")):
            self.send_header(key, value)
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n")
        self.wfile.flush()

    def event(self, data, name=None):
        data = data if isinstance(data, str) else json.dumps(data)
        self.chunk((("event: %s\n" % name if name else "") + "data: %s\n\n" % data).encode())

    def reset(self):
        """Closes so that the peer sees ECONNRESET."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def hold(self):
        """Says nothing more for as long as the peer stays."""
        self.connection.settimeout(ARGS.lifetime)
        self.close_connection = True
        self.connection.recv(1)

    def do_GET(self):
        if self.path.split("?")[0].endswith("/models"):
            return self.json(200, {"object": "list", "data": [{"id": "fake-model", "object": "model", "created": 0, "owned_by": "fake"}], "models": []})
        self.json(404, {"type": "error", "error": {"type": "not_found_error", "message": "fake model: no such path"}})

    def do_POST(self):
        path = self.path.split("?", 1)[0]
        prefix = re.match(r"^/s/([^/]+)(/.*)$", path)
        path, in_path = (prefix.group(2), urllib.parse.unquote(prefix.group(1))) if prefix else (path, None)
        raw = self.body()
        body = json.loads(raw or b"{}")
        gemini = re.search(r"/models/([^:/]+):(generateContent|streamGenerateContent)$", path)
        if path.endswith("/count_tokens"):
            return self.json(200, {"input_tokens": max(1, len(raw) // 4)})
        if path.endswith(":countTokens"):
            return self.json(200, {"totalTokens": max(1, len(raw) // 4)})
        if gemini:
            body.update(model=gemini.group(1), stream=gemini.group(2) == "streamGenerateContent")
        ends = {"/messages": "anthropic", "/responses": "responses", "/chat/completions": "chat"}
        protocol = "gemini" if gemini else next((p for end, p in ends.items() if path.endswith(end)), None)
        if protocol is None:
            return self.json(404, {"error": {"message": "fake model: no such path", "type": "not_found_error"}})
        request = Request(protocol, body, {k.lower(): v for k, v in self.headers.items()})
        name, params = request.spec(in_path)
        voice = fake_protocols.VOICES[protocol](self, request, params)
        entry = {"protocol": protocol, "script": name, "turn": request.results, "session": request.session,
                 "tools": len(request.tools), "cwd": request.cwd(), "said": request.last[-160:], "served": [0, 0],
                 "model": request.model, "instructions": request.instructions[-4000:]}
        try:
            self.play(voice, request, name, params, protocol, entry)
        except LookupError as e:
            entry["error"] = str(e)
            self.json(400, voice.error(400, "invalid_request_error", "fake model: " + str(e)))
        finally:
            log(entry)

    def play(self, voice, request, name, params, protocol, entry):
        if not request.tools and scripts.steps(name, params) is not None:
            # A title or a summary that the CLI asks for beside the real conversation.
            return voice.answer([scripts.text("A side answer")], name, (0, 0))
        fault, then, good = name.partition("-then-")
        if then:
            with LOCK:
                served = FAILURES.get((request.session, fault), 0)
                FAILURES[request.session, fault] = served + 1
            name = fault if served < int(params.get("times", 2)) else good
        is_fault = name in scripts.HTTP_FAULTS or name in scripts.STREAM_FAULTS
        if is_fault and request.results < int(params.get("at", 0)):
            step = [scripts.bash("echo step %d >> progress.txt" % request.results)]
        elif name in scripts.HTTP_FAULTS:
            entry["fault"] = name
            return self.fault(voice, name, params, protocol)
        elif name in scripts.STREAM_FAULTS:
            entry["fault"] = name
            return self.break_stream(voice, request, name, params)
        else:
            steps = scripts.steps(name, params)
            if steps is None:
                raise LookupError("unknown script " + name)
            step = steps[min(request.results, len(steps) - 1)]
        served = scripts.usage(name, step, request.results)
        voice.answer(step, name, served)
        entry["served"] = served

    def fault(self, voice, name, params, protocol):
        values = {"{ra}": params.get("ra", "1"), "{reset}": str(int(time.time()) + int(params.get("reset", 3600)))}

        def fill(text):
            for key, value in values.items():
                text = text.replace(key, value)
            return text

        status, kind, message, headers = scripts.HTTP_FAULTS[name]
        headers = {k: fill(v) for k, v in headers.items() if protocol == "anthropic" or k == "retry-after"}
        if protocol in ("responses", "chat") and name in scripts.OPENAI_FAULTS:
            status, error = scripts.OPENAI_FAULTS[name]
            error = {k: int(values[v]) if v == "{reset}" else fill(v) if isinstance(v, str) else v for k, v in error.items()}
            return self.json(status, {"error": error}, headers)
        if protocol == "gemini" and name in scripts.GEMINI_FAULTS:
            status, message, word, details = scripts.GEMINI_FAULTS[name]
            details = json.loads(fill(json.dumps(details)))
            return self.json(status, {"error": {"code": status, "message": message, "status": word, "details": details}}, headers)
        self.json(status, voice.error(status, kind, message), headers)

    def break_stream(self, voice, request, name, params):
        if name == "hang" or (not request.stream and name in ("stall", "slow")):
            return self.hold()
        if name == "drop-early" or (not request.stream and name == "drop"):
            return self.reset()
        if name == "html":
            return self.raw(200, "text/html", b"<html><body>Please sign in to the network</body></html>")
        if not request.stream:  # claude retries a broken stream as one plain request: broken likewise
            return self.raw(200, "application/json", b'{"id": "msg_cut", "type": "message", "role": "assis')
        self.open_stream()
        voice.begin()
        for i in range(3):
            voice.piece("partial %d " % i)
        if name == "stall":
            return self.hold()
        if name == "drop":
            return self.reset()
        end = time.monotonic() + float(params.get("s", ARGS.lifetime))
        while name == "slow" and time.monotonic() < end:
            voice.piece("tick ")
            time.sleep(int(params.get("every", 200)) / 1000)
        if name == "garbage":
            self.chunk(b"data: {this is not json\n\n")
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


def log(entry):
    if ARGS.log:
        with LOCK, open(ARGS.log, "a") as file:
            file.write(json.dumps(entry) + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    global ARGS
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--script", default="edit", help="played where nothing else says which")
    about.add_argument("--port", type=int, default=0, help="0: any free one")
    about.add_argument("--log", help="append one JSON line for each request to this file")
    about.add_argument("--lifetime", type=float, default=1800, help="seconds after which it ends by itself")
    about.add_argument("--with-parent", action="store_true", help="end when the parent process does")
    ARGS = about.parse_args()
    parent = os.getppid()
    server = Server(("127.0.0.1", ARGS.port), Handler)
    print(server.server_address[1], flush=True)

    def watch():
        end = time.monotonic() + ARGS.lifetime
        while time.monotonic() < end and not (ARGS.with_parent and os.getppid() != parent):
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    server.serve_forever(poll_interval=0.2)


if __name__ == "__main__":
    main()
