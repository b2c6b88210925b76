"""How the scripted model says a turn in each wire protocol.

Each voice has `answer(step, script, tokens)` for a whole turn, streamed or not as the request wants
it; `begin` and `piece` for the start of a stream that then breaks; and `error` for the body of an
HTTP error. Knows nothing of scripts. Keeps: the tokens that it reports are the ones it was given.
"""
import json, time, uuid

PIECE = 24  # characters of a text or of a tool's arguments in one event


def fresh(prefix):
    return prefix + uuid.uuid4().hex[:16]


def pieces(text):
    size = PIECE if len(text) < 4000 else 65536
    return [text[i:i + size] for i in range(0, len(text), size)]


class Voice:
    def __init__(self, handler, request, params):
        self.h, self.request, self.params = handler, request, params

    def error(self, _status, kind, message):
        return {"error": {"message": message, "type": kind, "code": None, "param": None}}

    def parts(self, step):
        """The step with tool calls as ("tool", name, input) in the words of this CLI."""
        return [("tool", *self.request.tool(*part[1:])) if part[0] == "tool" else part for part in step]


class Anthropic(Voice):
    def error(self, _status, kind, message):
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": fresh("req_")}

    def message(self, content, stop, tokens):
        usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                 "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}, "service_tier": "standard"}
        return {"id": fresh("msg_"), "type": "message", "role": "assistant", "model": self.request.model, "content": content,
                "stop_reason": stop, "stop_sequence": None, "usage": usage}

    def say(self, kind, **fields):
        self.h.event({"type": kind, **fields}, kind)

    def begin(self):
        self.say("message_start", message=self.message([], None, (1000, 1)))
        self.say("content_block_start", index=0, content_block={"type": "text", "text": ""})

    def piece(self, text):
        self.say("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def answer(self, step, script, tokens):
        blocks = []
        for part in self.parts(step):
            if part[0] == "text":
                blocks.append({"type": "text", "text": part[1]})
            elif part[0] == "think":
                blocks.append({"type": "thinking", "thinking": part[1], "signature": "ZmFrZQ=="})
            else:
                blocks.append({"type": "tool_use", "id": fresh("toolu_"), "name": part[1], "input": part[2]})
        stop = "tool_use" if any(b["type"] == "tool_use" for b in blocks) else "end_turn"
        stop = {"refusal": "refusal", "max-tokens": "max_tokens"}.get(script, stop)
        if not self.request.stream:
            return self.h.json(200, self.message(blocks, stop, tokens))
        self.h.open_stream()
        # As the real API: output_tokens is 1 at first, and right only in message_delta.
        self.say("message_start", message=self.message([], None, (tokens[0], 1)))
        for index, block in enumerate(blocks):
            empty, deltas = {
                "text": lambda b: (dict(b, text=""), [{"type": "text_delta", "text": t} for t in pieces(b["text"])]),
                "thinking": lambda b: (dict(b, thinking="", signature=""), [{"type": "thinking_delta", "thinking": b["thinking"]}, {"type": "signature_delta", "signature": b["signature"]}]),
                "tool_use": lambda b: (dict(b, input={}), [{"type": "input_json_delta", "partial_json": t} for t in pieces(json.dumps(b["input"]))]),
            }[block["type"]](block)
            self.say("content_block_start", index=index, content_block=empty)
            for delta in deltas:
                self.say("content_block_delta", index=index, delta=delta)
            self.say("content_block_stop", index=index)
        self.say("message_delta", delta={"stop_reason": stop, "stop_sequence": None},
                 usage={"input_tokens": tokens[0], "output_tokens": tokens[1], "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0})
        self.say("message_stop")
        self.h.wfile.write(b"0\r\n\r\n")


class Responses(Voice):
    def __init__(self, *given):
        super().__init__(*given)
        self.sequence, self.id = 0, fresh("resp_")

    def say(self, kind, **fields):
        self.h.event({"type": kind, "sequence_number": self.sequence, **fields}, kind)
        self.sequence += 1

    def response(self, status, output, usage=None):
        return {"id": self.id, "object": "response", "created_at": int(time.time()), "status": status, "model": self.request.model, "output": output,
                "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1,
                "tool_choice": "auto", "tools": [], "top_p": 1, "usage": usage}

    def open_message(self, index, item):
        self.item = item["id"]
        self.say("response.output_item.added", output_index=index, item=dict(item, status="in_progress", content=[]))
        self.say("response.content_part.added", item_id=self.item, output_index=index, content_index=0, part={"type": "output_text", "text": "", "annotations": []})

    def begin(self):
        self.say("response.created", response=self.response("in_progress", []))
        self.open_message(0, {"type": "message", "id": fresh("msg_"), "role": "assistant"})

    def piece(self, text, index=0):
        self.say("response.output_text.delta", item_id=self.item, output_index=index, content_index=0, delta=text)

    def answer(self, step, _script, tokens):
        usage = {"input_tokens": tokens[0], "input_tokens_details": {"cached_tokens": 0}, "output_tokens": tokens[1],
                 "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": sum(tokens)}
        items = []
        for part in self.parts(step):
            if part[0] == "text":
                items.append({"type": "message", "id": fresh("msg_"), "status": "completed", "role": "assistant",
                              "content": [{"type": "output_text", "text": part[1], "annotations": []}]})
            elif part[0] == "think":
                items.append({"type": "reasoning", "id": fresh("rs_"), "summary": [{"type": "summary_text", "text": part[1]}]})
            else:
                call = {"type": "function_call", "id": fresh("fc_"), "call_id": fresh("call_"), "name": part[1],
                        "arguments": json.dumps(part[2]), "status": "completed"}
                space = (self.request.tools.get(part[1]) or {}).get("namespace")
                items.append(dict(call, namespace=space) if space else call)
        if not self.request.stream:
            return self.h.json(200, self.response("completed", items, usage))
        self.h.open_stream()
        self.say("response.created", response=self.response("in_progress", []))
        for index, item in enumerate(items):
            if item["type"] == "message":
                self.open_message(index, item)
                for text in pieces(item["content"][0]["text"]):
                    self.piece(text, index)
                self.say("response.output_text.done", item_id=item["id"], output_index=index, content_index=0, text=item["content"][0]["text"])
                self.say("response.content_part.done", item_id=item["id"], output_index=index, content_index=0, part=item["content"][0])
            elif item["type"] == "function_call":
                self.say("response.output_item.added", output_index=index, item=dict(item, status="in_progress", arguments=""))
                for text in pieces(item["arguments"]):
                    self.say("response.function_call_arguments.delta", item_id=item["id"], output_index=index, delta=text)
                self.say("response.function_call_arguments.done", item_id=item["id"], output_index=index, arguments=item["arguments"])
            else:
                self.say("response.output_item.added", output_index=index, item=dict(item, summary=[]))
            self.say("response.output_item.done", output_index=index, item=item)
        self.say("response.completed", response=self.response("completed", items, usage))
        self.h.wfile.write(b"0\r\n\r\n")


class Chat(Voice):
    def __init__(self, *given):
        super().__init__(*given)
        self.id = fresh("chatcmpl-")

    def say(self, delta, finish=None, **more):
        self.h.event({"id": self.id, "object": "chat.completion.chunk", "created": int(time.time()), "model": self.request.model,
                      "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})

    def begin(self):
        self.say({"role": "assistant", "content": ""})

    def piece(self, text):
        self.say({"content": text})

    def answer(self, step, script, tokens):
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        parts = self.parts(step)
        said = "".join(part[1] for part in parts if part[0] == "text")
        calls = [{"id": fresh("call_"), "type": "function", "function": {"name": part[1], "arguments": json.dumps(part[2])}} for part in parts if part[0] == "tool"]
        finish = "tool_calls" if calls else "length" if script == "max-tokens" else "stop"
        if not self.request.stream:
            message = {"role": "assistant", "content": said or None, **({"tool_calls": calls} if calls else {})}
            return self.h.json(200, {"id": self.id, "object": "chat.completion", "created": int(time.time()), "model": self.request.model,
                                     "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})
        self.h.open_stream()
        self.begin()
        for text in pieces(said):
            self.piece(text)
        for index, call in enumerate(calls):
            self.say({"tool_calls": [dict(call, index=index, function={"name": call["function"]["name"], "arguments": ""})]})
            for text in pieces(call["function"]["arguments"]):
                self.say({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
        self.say({}, finish, usage=usage)
        self.h.event("[DONE]")
        self.h.wfile.write(b"0\r\n\r\n")


class Gemini(Voice):
    WORDS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}

    def error(self, status, _kind, message):
        return {"error": {"code": status, "message": message, "status": self.WORDS.get(status, "UNAVAILABLE")}}

    def whole(self, parts, finish=None, usage=None):
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0, **({"finishReason": finish} if finish else {})}
        return {"candidates": [candidate], "modelVersion": self.request.model, "responseId": "fake", **({"usageMetadata": usage} if usage else {})}

    def begin(self):
        pass

    def piece(self, text):
        self.h.event(self.whole([{"text": text}]))

    def answer(self, step, script, tokens):
        usage = {"promptTokenCount": tokens[0], "candidatesTokenCount": tokens[1], "totalTokenCount": sum(tokens)}
        parts = []
        for part in self.parts(step):
            if part[0] == "tool":
                parts.append({"functionCall": {"name": part[1], "args": part[2]}})
            else:
                parts.append({"text": part[1], **({"thought": True} if part[0] == "think" else {})})
        finish = {"max-tokens": "MAX_TOKENS", "refusal": "SAFETY"}.get(script, "STOP")
        if not self.request.stream:
            if (self.request.body.get("generationConfig") or {}).get("responseMimeType") == "application/json":
                # The CLI's own questions (who speaks next, how hard is it) want an object.
                parts = [{"text": json.dumps({"reasoning": "fake", "model_choice": "pro", "next_speaker": "user", "complexity_score": 50, "complexity_reasoning": "fake"})}]
            return self.h.json(200, self.whole(parts, finish, usage))
        self.h.open_stream()
        for part in parts:
            if "text" in part and not part.get("thought"):
                for text in pieces(part["text"]):
                    self.piece(text)
            else:
                self.h.event(self.whole([part]))
        self.h.event(self.whole([{"text": ""}], finish, usage))
        self.h.wfile.write(b"0\r\n\r\n")


VOICES = {"anthropic": Anthropic, "responses": Responses, "chat": Chat, "gemini": Gemini}
