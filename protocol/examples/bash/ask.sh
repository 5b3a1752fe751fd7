#!/usr/bin/env bash
# Asks a model through beluna-gateway and prints the answer as it comes: ask.sh SOCKET QUESTION. Ctrl-C cancels.
# Needs jq and socat.
set -euo pipefail
socket=$1 question=$2

# In a session of its own: Ctrl-C in the terminal is for this script only, which says `cancel` then.
coproc daemon { exec setsid socat - "UNIX-CONNECT:$socket"; }
exec {from}<&"${daemon[0]}" {to}>&"${daemon[1]}"

jq -nc --arg question "$question" \
  '{type: "infer", request_id: "q1", messages: [{role: "user", parts: [{text: {text: $question}}]}]}' >&"$to"
# A second Ctrl-C does not wait; to close the socket cancels too.
trap 'trap - INT; echo "{\"type\":\"cancel\",\"request_id\":\"q1\"}" >&"$to"' INT

# In the background, so that the trap runs at once: bash waits for a program in the foreground first.
jq -nj --unbuffered '
  (inputs |
    if .type == "output_text_delta" then .delta
    elif .type == "completed" then "\n", halt
    elif .type == "failed" or .type == "rejected" then
      "\(.error.kind): \(.error.message)\(if .error.retryable then " (may succeed if it is sent again)" else "" end)\n"
      | halt_error(1)
    else empty # `started`, `usage`, and what a newer daemon says besides: nothing to do
    end),
  ("the daemon closed the connection before the answer was complete\n" | halt_error(1))' <&"$from" &

wait $! || wait $! # the trap ends the first one; after the end of the program both give its status
