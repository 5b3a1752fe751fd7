// Compiled only: what the generated types take, and what they refuse (`@ts-expect-error` fails where nothing is wrong).

import type { ClientFrame, JsonValue, Message, Part, ToolChoice } from "./client.ts";
import type { ErrorKind, FinishReason, ServerFrame } from "./server.ts";

const parts: Part[] = [
  { text: { text: "What is this?" } },
  { image_url: { url: "https://example.org/cat.jpg", mime_type: "image/jpeg" } },
  { json: { value: [1, null, { taken: "2026-11-22", tags: [true] }] } },
  { file: { data: "aGk=", mime_type: "application/pdf" } },
];
const messages: Message[] = [{ role: "user", parts }];
const schema: { [key: string]: JsonValue } = { type: "object", properties: { city: { type: "string" } } };
const choices: ToolChoice[] = ["auto", { specific: { name: "get_weather" } }];

export const frames: ClientFrame[] = [
  { type: "infer", messages },
  {
    type: "infer",
    request_id: null,
    messages,
    tools: [{ name: "get_weather", input_schema: schema }],
    tool_choice: choices[0],
    output_mode: { json_schema: { name: "n", schema } },
    limits: { max_output_tokens: 5 },
    reasoning: { effort: "high" },
    route: { kind: "alias", capability: "chat", alias: "low-cost" },
    provider_options: { nested: { any: [1, "x"] } },
  },
  { type: "embed", inputs: ["a cat"] },
  { type: "cancel", request_id: "q1" },
  { type: "status" },
];

export const wrong: ClientFrame[] = [
  // @ts-expect-error: no messages
  { type: "infer" },
  // @ts-expect-error: an unknown type
  { type: "hello" },
  // @ts-expect-error: an unknown field
  { type: "cancel", request_id: "q1", reason: "x" },
  // @ts-expect-error: an unknown role
  { type: "infer", messages: [{ role: "developer", parts }] },
  // @ts-expect-error: no JSON
  { type: "infer", messages: [{ role: "user", parts: [{ json: { value: () => 1 } }] }] },
];

// `type` tells the frames apart, and the compiler knows each case.
export function seen(frame: ServerFrame): string {
  switch (frame.type) {
    case "started":
      return `${frame.backend_id} ${frame.model}`;
    case "output_text_delta":
    case "reasoning_delta":
      return frame.delta;
    case "tool_call_delta":
      return (frame.name ?? "") + frame.arguments_delta;
    case "tool_call_ready":
      return frame.call.arguments_json;
    case "annotation":
      return JSON.stringify(frame.annotation.raw satisfies JsonValue);
    case "usage":
      return String(frame.usage.input_tokens ?? 0);
    case "completed": {
      const reason: FinishReason = frame.finish_reason;
      return typeof reason === "string" ? reason : reason.other;
    }
    case "embedding":
      return String(frame.vectors[0]?.[0]);
    case "token_count":
      return String(frame.input_tokens);
    case "model_list":
      return frame.models.map((model) => model.id).join();
    case "failed":
    case "rejected": {
      const kind: ErrorKind = frame.error.kind;
      return `${kind}: ${frame.error.message}`;
    }
    case "status":
      return frame.backends.map((backend) => backend.breaker).join();
    default:
      return frame satisfies never;
  }
}

// @ts-expect-error: no such kind
export const kind: ErrorKind = "unknown";
