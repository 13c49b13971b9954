//! One message of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A message: role, content, and whatever else a template reads (`tool_calls`, `name`, `reasoning_content`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what the template knows.
    pub role: String,
    /// A string, null, or a list of parts `{"type": "text", "text": ..}`.
    #[serde(default)]
    pub content: Value,
    /// All other keys, in their order.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: Value::String(content.into()), extra: Map::new() }
    }

    /// The message as a template sees it: arguments of tool calls as objects, reasoning under the names that templates read.
    pub(super) fn to_object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        let reasoning = ["reasoning_content", "thinking", "reasoning"]
            .iter()
            .find_map(|key| self.extra.get(*key).filter(|value| !value.is_null()));
        object.insert("role".to_string(), Value::from(self.role.clone()));
        object.insert("content".to_string(), self.content.clone());
        object.extend(self.extra.clone());
        if let Some(reasoning) = reasoning {
            object.entry("thinking").or_insert(reasoning.clone());
            object.insert("reasoning_content".to_string(), reasoning.clone());
        }
        if let Some(Value::Array(calls)) = object.get_mut("tool_calls") {
            calls.iter_mut().for_each(parse_arguments);
        }
        object
    }
}

/// OpenAI's wire format has the arguments of a call as JSON in a string; templates expect the object.
fn parse_arguments(call: &mut Value) {
    for arguments in [&["function", "arguments"][..], &["arguments"][..]] {
        let found = arguments.iter().try_fold(&mut *call, |value, key| value.get_mut(*key));
        if let Some(slot) = found
            && let Some(Ok(parsed @ Value::Object(_))) = slot.as_str().map(serde_json::from_str)
        {
            *slot = parsed;
        }
    }
}

/// The text of a content given as parts, one part a line; the type of the first part that is not text otherwise.
pub(super) fn flatten(parts: &[Value]) -> Result<String, String> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match (part.as_str(), part["type"].as_str(), part["text"].as_str()) {
            (Some(text), ..) | (None, None | Some("text"), Some(text)) => texts.push(text),
            (None, kind, _) => return Err(kind.unwrap_or("unknown").to_string()),
        }
    }
    Ok(texts.join("\n"))
}
