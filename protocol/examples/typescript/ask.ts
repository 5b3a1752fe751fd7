// Asks a model through beluna-gateway and prints the answer as it comes: ask.ts SOCKET QUESTION. Ctrl-C cancels.

import { createConnection } from "node:net";
import { createInterface } from "node:readline";
import type { ClientFrame } from "./client.ts"; // the types are generated: see README.md
import type { ServerFrame } from "./server.ts";

const [path, question] = process.argv.slice(2) as [string, string];
const connection = createConnection(path);
const send = (frame: ClientFrame) => connection.write(JSON.stringify(frame) + "\n");

function finish(status: number, error = ""): never {
  if (error) console.error(error);
  process.exit(status);
}

connection.on("error", (error) => finish(1, error.message));
send({ type: "infer", request_id: "q1", messages: [{ role: "user", parts: [{ text: { text: question } }] }] });
// Once: a second Ctrl-C does not wait; to close the socket cancels too.
process.once("SIGINT", () => send({ type: "cancel", request_id: "q1" }));

for await (const line of createInterface(connection)) {
  const frame = JSON.parse(line) as ServerFrame;
  switch (frame.type) {
    case "output_text_delta":
      process.stdout.write(frame.delta);
      break;
    case "completed":
      process.stdout.write("\n");
      finish(0);
    case "failed":
    case "rejected": {
      const { kind, message, retryable } = frame.error;
      finish(1, `${kind}: ${message}${retryable ? " (may succeed if it is sent again)" : ""}`);
    }
    // `started`, `usage`, and what a newer daemon says besides: nothing to do
  }
}
finish(1, "the daemon closed the connection before the answer was complete");
