//! Compiled beside the generated module: writes frames of a client, then each answer on standard input.

#[allow(dead_code)]
mod frames;

use std::io::{stdin, BufRead};

use frames::*;
use serde::{Deserialize, Serialize};

/// The frames of the daemon; each has a `type` that only its own struct takes.
#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum ServerFrame {
    Started(StartedFrame),
    OutputTextDelta(OutputTextDeltaFrame),
    ReasoningDelta(ReasoningDeltaFrame),
    ToolCallDelta(ToolCallDeltaFrame),
    ToolCallReady(ToolCallReadyFrame),
    Annotation(AnnotationFrame),
    Usage(UsageFrame),
    Completed(CompletedFrame),
    Embedding(EmbeddingFrame),
    TokenCount(TokenCountFrame),
    ModelList(ModelListFrame),
    Failed(FailedFrame),
    Rejected(RejectedFrame),
    Status(StatusFrame),
}

fn infer(request_id: Option<String>, parts: Vec<Part>) -> Infer {
    Infer {
        infer_type: InferType::Infer,
        request_id,
        messages: vec![Message {
            role: Role::User,
            parts,
            cache: None,
            is_error: None,
            provider_state: None,
            tool_call_id: None,
            tool_calls: None,
            tool_name: None,
        }],
        tool_choice: Some(ToolChoiceUnion::Enum(ToolChoiceEnum::Auto)),
        output_mode: Some(OutputModeUnion::Enum(OutputModeEnum::Text)),
        limits: Some(Limits {
            max_output_tokens: Some(5),
            max_request_time_ms: None,
        }),
        backend_id: None,
        cache: None,
        enable_thinking: None,
        include_annotations: None,
        include_reasoning: None,
        metadata: None,
        model: None,
        parallel_tool_calls: None,
        provider_options: None,
        reasoning: None,
        route: None,
        sampling: None,
        service_tier: None,
        stream: Some(true),
        tools: None,
    }
}

fn main() -> serde_json::Result<()> {
    let text = Part {
        text: Some(Text { text: "é".into() }),
        image_url: None,
        json: None,
        file: None,
    };
    let json = Part {
        text: None,
        image_url: None,
        json: Some(Json {
            value: Some(serde_json::json!([1, null, { "a": 1.5 }])),
        }),
        file: None,
    };
    println!("{}", serde_json::to_string(&infer(None, vec![text, json]))?);
    let cancel = Cancel {
        cancel_type: CancelType::Cancel,
        request_id: "q1".into(),
    };
    println!("{}", serde_json::to_string(&cancel)?);
    println!("--");

    for line in stdin().lock().lines() {
        let frame: ServerFrame = serde_json::from_str(&line.expect("UTF-8"))?;
        println!("{}", serde_json::to_string(&frame)?);
    }
    Ok(())
}
