//! Conversations to prompts: the chat template of a checkpoint, through minijinja.
//!
//! The result is encoded **without** adding special tokens: templates write them themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::{EngineError, Result, excerpt};
use crate::json;
use crate::tokenizer::{TOKENIZER_CONFIG_FILE, TokenizerConfig};

mod clock;
mod environment;
mod message;
mod python;

pub use message::Message;

const JINJA_FILE: &str = "chat_template.jinja";
const JSON_FILE: &str = "chat_template.json";
const MORE_TEMPLATES: &str = "additional_chat_templates";
/// The name of the template that is meant where none is named.
pub const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
/// Marks where the final message ends, when it is to be continued. A template that trims takes the space from its end.
const CONTINUE_MARK: &str = "\u{2}continue here\u{2} ";

/// What is put into a prompt.
#[derive(Clone, Debug, Default)]
pub struct ChatRequest<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Tools as JSON schemas.
    pub tools: Option<&'a [Value]>,
    /// Documents for retrieval.
    pub documents: Option<&'a [Value]>,
    /// Whether the prompt ends with the beginning of an answer. Usually true.
    pub add_generation_prompt: bool,
    /// Whether the last message is unfinished and the prompt ends in the middle of it. Excludes `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Further variables, e.g. `enable_thinking`; they win over all others.
    pub variables: Map<String, Value>,
    /// A template by name; absent is `tool_use` where there are tools and such a template, else `default`.
    pub template: Option<&'a str>,
    /// The moment that `strftime_now` tells (UTC); absent is now.
    pub now: Option<SystemTime>,
}

#[derive(Clone, Debug)]
struct Source {
    /// Where it stands, for error texts.
    origin: String,
    text: String,
}

/// The chat templates of a checkpoint.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    sources: BTreeMap<String, Source>,
    special_tokens: Map<String, Value>,
}

impl ChatTemplate {
    /// Finds the templates of a checkpoint directory: `chat_template.jinja`, else `chat_template.json`, else `tokenizer_config.json`;
    /// and further ones in `additional_chat_templates/`. `None` when there is none.
    ///
    /// # Errors
    /// Unreadable files; a template that does not compile.
    pub fn from_dir(dir: impl AsRef<Path>, config: &TokenizerConfig) -> Result<Option<ChatTemplate>> {
        let dir = dir.as_ref();
        let mut sources = BTreeMap::new();
        let jinja = dir.join(JINJA_FILE);
        if jinja.is_file() {
            sources.insert(DEFAULT.to_string(), read_source(&jinja)?);
        } else if let Some(object) = json::read_object_if_present(&dir.join(JSON_FILE))? {
            let value = object.get("chat_template").ok_or_else(|| object.refuse("chat_template", "a template"))?;
            sources = named_sources(&dir.join(JSON_FILE), value)?;
        } else if let Some(value) = &config.chat_template {
            sources = named_sources(&dir.join(TOKENIZER_CONFIG_FILE), value)?;
        }
        for (name, source) in further_sources(&dir.join(MORE_TEMPLATES))? {
            sources.entry(name).or_insert(source);
        }
        if sources.is_empty() {
            return Ok(None);
        }
        ChatTemplate::new(sources, config.special_tokens().clone()).map(Some)
    }

    /// The templates of a `tokenizer_config.json` alone. `None` when it has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_dir`].
    pub fn from_config(path: impl AsRef<Path>, config: &TokenizerConfig) -> Result<Option<ChatTemplate>> {
        let Some(value) = &config.chat_template else { return Ok(None) };
        let sources = named_sources(path.as_ref(), value)?;
        ChatTemplate::new(sources, config.special_tokens().clone()).map(Some)
    }

    /// A template given as text.
    ///
    /// # Errors
    /// When it does not compile.
    pub fn from_text(text: impl Into<String>, special_tokens: Map<String, Value>) -> Result<ChatTemplate> {
        let source = Source { origin: "given as text".to_string(), text: text.into() };
        ChatTemplate::new(BTreeMap::from([(DEFAULT.to_string(), source)]), special_tokens)
    }

    fn new(mut sources: BTreeMap<String, Source>, special_tokens: Map<String, Value>) -> Result<ChatTemplate> {
        let env = environment::environment(0);
        for source in sources.values_mut() {
            source.text = environment::without_generation_tags(&source.text);
            env.template_from_named_str("chat_template", &source.text).map_err(|e| {
                source.failure(
                    &e,
                    "fix the template, or give another one: some constructs of Python's Jinja are not supported",
                )
            })?;
        }
        Ok(ChatTemplate { sources, special_tokens })
    }

    /// Names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The templates by name, as they are rendered.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(name, source)| (name.as_str(), source.text.as_str()))
    }

    /// The prompt of a conversation.
    ///
    /// # Errors
    /// A template that is not there; one that refuses the conversation, fails or exceeds its limits; content that is not text where
    /// the template takes text alone.
    pub fn render(&self, request: &ChatRequest<'_>) -> Result<String> {
        let source = self.source(request)?;
        let mut messages: Vec<Map<String, Value>> = request.messages.iter().map(Message::to_object).collect();
        let has_parts = messages.iter().any(|message| message["content"].is_array());
        if has_parts && !self.takes_parts(source) {
            for message in &mut messages {
                flatten_content(source, message)?;
            }
        }
        if !request.continue_final_message {
            return self.render_messages(source, request, messages);
        }
        let last = mark_final(source, request, &mut messages)?;
        let prompt = self.render_messages(source, request, messages)?;
        cut_at_mark(source, prompt, &last)
    }

    fn source(&self, request: &ChatRequest<'_>) -> Result<&Source> {
        let wanted = request.template.unwrap_or_else(|| {
            let for_tools = request.tools.is_some_and(|tools| !tools.is_empty());
            if for_tools && self.sources.contains_key(TOOL_USE) { TOOL_USE } else { DEFAULT }
        });
        self.sources.get(wanted).ok_or_else(|| EngineError::ChatTemplate {
            origin: format!("{wanted:?}"),
            found: format!("not among {}", self.names().collect::<Vec<_>>().join(", ")),
            mend: "name one of these",
        })
    }

    fn render_messages(
        &self,
        source: &Source,
        request: &ChatRequest<'_>,
        messages: Vec<Map<String, Value>>,
    ) -> Result<String> {
        let now = request.now.unwrap_or_else(SystemTime::now);
        let seconds = match now.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(0),
            Err(_) => 0,
        };
        let list = |items: Option<&[Value]>| items.map_or(Value::Null, |items| Value::from(items.to_vec()));
        let mut variables = self.special_tokens.clone();
        variables.insert("messages".to_string(), messages.into_iter().map(Value::Object).collect());
        variables.insert("tools".to_string(), list(request.tools));
        variables.insert("documents".to_string(), list(request.documents));
        variables.insert("add_generation_prompt".to_string(), request.add_generation_prompt.into());
        variables.extend(request.variables.clone());
        let variables = minijinja::Value::from_serialize(&variables);
        environment::render(&environment::environment(seconds), &source.text, &variables)
            .map_err(|e| source.failure(&e, "check roles, order and content of the messages against the template"))
    }

    /// Whether a template reads content given as parts: tried with one.
    fn takes_parts(&self, source: &Source) -> bool {
        const PROBE: &str = "9c41-part";
        let message = serde_json::json!({"role": "user", "content": [{"type": "text", "text": PROBE}]});
        let Value::Object(message) = message else { return false };
        let request = ChatRequest::default();
        match self.render_messages(source, &request, vec![message]) {
            Ok(prompt) => prompt.contains(PROBE) && !prompt.contains("'type'") && !prompt.contains("\"type\""),
            Err(_) => false,
        }
    }
}

impl Source {
    fn failure(&self, error: &minijinja::Error, mend: &'static str) -> EngineError {
        EngineError::ChatTemplate { origin: self.origin.clone(), found: long_excerpt(&error.to_string()), mend }
    }

    fn refusal(&self, found: String, mend: &'static str) -> EngineError {
        EngineError::ChatTemplate { origin: self.origin.clone(), found, mend }
    }
}

/// A template's own message is worth more room than a value.
fn long_excerpt(text: &str) -> String {
    text.chars().take(400).collect()
}

fn read_source(path: &Path) -> Result<Source> {
    let text = String::from_utf8(json::read_bytes(path)?)
        .map_err(|_| EngineError::malformed(path, "Jinja", "bytes that are not UTF-8", "save the template as UTF-8"))?;
    Ok(Source { origin: path.display().to_string(), text })
}

/// A template is a string, or a list of `{name, template}`.
fn named_sources(path: &Path, value: &Value) -> Result<BTreeMap<String, Source>> {
    let origin = path.display().to_string();
    let source = |text: &str| Source { origin: origin.clone(), text: text.to_string() };
    if let Some(text) = value.as_str() {
        return Ok(BTreeMap::from([(DEFAULT.to_string(), source(text))]));
    }
    let refuse = || EngineError::Config {
        path: path.to_path_buf(),
        key: "chat_template".to_string(),
        expected: "a template or a list of {name, template}".to_string(),
        found: excerpt(&value.to_string()),
    };
    let mut sources = BTreeMap::new();
    for item in value.as_array().ok_or_else(refuse)? {
        let (Some(name), Some(text)) = (item["name"].as_str(), item["template"].as_str()) else {
            return Err(refuse());
        };
        sources.insert(name.to_string(), source(text));
    }
    Ok(sources)
}

fn further_sources(dir: &Path) -> Result<Vec<(String, Source)>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| EngineError::io("list", dir, e))? {
        let path = entry.map_err(|e| EngineError::io("list", dir, e))?.path();
        if path.extension().is_some_and(|extension| extension == "jinja")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            found.push((name.to_string(), read_source(&path)?));
        }
    }
    Ok(found)
}

fn flatten_content(source: &Source, message: &mut Map<String, Value>) -> Result<()> {
    let Some(Value::Array(parts)) = message.get("content") else { return Ok(()) };
    let text = message::flatten(parts).map_err(|kind| {
        source.refusal(format!("content part of type {:?}", excerpt(&kind)), "this template takes text alone")
    })?;
    message.insert("content".to_string(), text.into());
    Ok(())
}

/// Puts the mark behind the text of the last message and returns that text.
fn mark_final(source: &Source, request: &ChatRequest<'_>, messages: &mut [Map<String, Value>]) -> Result<String> {
    const MEND: &str = "end the conversation with the text to continue, or ask for a new answer";
    if request.add_generation_prompt {
        let found = "continue_final_message together with add_generation_prompt".to_string();
        return Err(source.refusal(found, "ask for one of the two"));
    }
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(text @ Value::String(_)) => Some(text),
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        _ => None,
    };
    let Some(Value::String(text)) = text else {
        return Err(source.refusal("no text in the final message".to_string(), MEND));
    };
    let last = text.clone();
    text.push_str(CONTINUE_MARK);
    Ok(last)
}

fn cut_at_mark(source: &Source, mut prompt: String, last: &str) -> Result<String> {
    match prompt.rfind(CONTINUE_MARK.trim_end()) {
        Some(at) if prompt[..at].contains(last.trim()) => {
            let trims = !prompt[at..].starts_with(CONTINUE_MARK);
            prompt.truncate(at);
            if trims {
                prompt.truncate(prompt.trim_end().len());
            }
            Ok(prompt)
        }
        _ => Err(source.refusal(
            "the final message does not appear in the prompt as it is".to_string(),
            "this template rewrites the last message; it cannot be continued",
        )),
    }
}

#[cfg(test)]
mod tests;
