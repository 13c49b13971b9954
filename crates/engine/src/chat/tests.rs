use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::from_text(text, Map::new()).unwrap()
}

fn render_with(text: &str, messages: &[Message]) -> Result<String> {
    template(text).render(&ChatRequest { messages, ..ChatRequest::default() })
}

fn show(text: &str) -> String {
    render_with(text, &[]).unwrap()
}

fn refusal(text: &str, messages: &[Message]) -> String {
    render_with(text, messages).unwrap_err().to_string()
}

fn messages(value: Value) -> Vec<Message> {
    serde_json::from_value(value).unwrap()
}

#[test]
fn renderings_are_those_of_transformers() {
    for name in ["tokenizer-bytelevel", "tokenizer-jinja", "tokenizer-spm"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
        let tokenizer = crate::tokenizer::Tokenizer::from_dir(&dir).unwrap();
        let template = ChatTemplate::from_dir(&dir, tokenizer.config()).unwrap().unwrap();
        let golden: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
        let cases = golden["chat"].as_array().unwrap();
        assert!(cases.len() > 2);
        for case in cases {
            let messages = messages(case["messages"].clone());
            let tools = case["tools"].as_array().cloned();
            let request = ChatRequest {
                messages: &messages,
                tools: tools.as_deref(),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                variables: case["variables"].as_object().cloned().unwrap_or_default(),
                ..ChatRequest::default()
            };
            if let Some(refusal) = case["error"].as_str() {
                let message = template.render(&request).unwrap_err().to_string();
                assert!(message.contains(refusal), "{name}: {message}");
                continue;
            }
            let prompt = template.render(&request).unwrap();
            assert_eq!(prompt, case["text"].as_str().unwrap(), "{name}: {}", case["messages"]);
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(&prompt, false).unwrap(), ids, "{name}");
        }
    }
}

#[test]
fn blocks_are_trimmed_on_both_sides() {
    assert_eq!(show("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
}

#[test]
fn json_is_written_as_python_writes_it() {
    assert_eq!(
        show(r#"{{ {"b": [1, 2.0, none, true], "a": "中 <&> \"q\" \n"} | tojson }}"#),
        r#"{"b": [1, 2.0, null, true], "a": "中 <&> \"q\" \n"}"#
    );
    assert_eq!(
        show("{{ {'b': [1, {}], 'a': []} | tojson(indent=2) }}"),
        "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": []\n}"
    );
    assert_eq!(
        show("{{ {'b': 1, 'a': '中🙂'} | tojson(sort_keys=true, ensure_ascii=true) }}"),
        r#"{"a": "\u4e2d\ud83d\ude42", "b": 1}"#
    );
    assert_eq!(show("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}"), r#"[1,{"a":2}]"#);
    assert!(refusal("{{ missing | tojson }}", &[]).contains("not JSON"));
    assert!(refusal("{{ [] | tojson(indent=1000) }}", &[]).contains("indent"));
}

#[test]
fn values_print_as_python_prints_them() {
    assert_eq!(
        show("{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ [1, 'a', {'k': \"it's\"}] }} {{ missing }}."),
        "True None 1.0 1e+20 [1, 'a', {'k': \"it's\"}] ."
    );
    assert_eq!(show("{{ false | string + '!' }}"), "False!");
}

#[test]
fn python_idioms_of_templates_work() {
    assert_eq!(
        show("{{ [1, 2, 3][::-1] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][1:] }}{{ [1, 2, 3][-1] }}"),
        "[3, 2, 1]cba[2, 3]3"
    );
    assert_eq!(show("{% for i in range(3, -1, -1) %}{{ i }}{% endfor %}{{ range(5) | length }}"), "32105");
    assert_eq!(
        show(
            "{{ ' x\n'.strip() }}{{ 'a</t>b'.split('</t>')[-1] }}{{ '\n\ny'.lstrip('\n') }}{{ 'Ab'.upper().startswith('A') }}"
        ),
        "xbyTrue"
    );
    assert_eq!(
        show("{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('b', 'none') }}"),
        "z1a2none"
    );
    assert_eq!(
        show(
            "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
        ),
        "4"
    );
    assert_eq!(
        show("{{ 'abc' is sequence }}{{ {} is iterable }}{{ 1 is iterable }}{{ [] is sequence }}{{ 'a' is mapping }}"),
        "TrueTrueFalseTrueFalse"
    );
    assert_eq!(
        show("{% macro f(x, y='d') %}{{ x }}{{ y }}{% endmacro %}{{ f('a') }}{{ f('b', y=('e' if true else 'g')) }}"),
        "adbe"
    );
    assert_eq!(show("{{ 'a' ~ 1 ~ 'b' }}{{ 'x' if missing is not defined else 'y' }}{{ (missing or 'z') }}"), "a1bxz");
    assert_eq!(show("{%- set m = dict(a=1) %}{{ m.a }}"), "1");
}

#[test]
fn generation_tags_trim_like_blocks_and_render_their_body() {
    assert_eq!(show("a\n  {% generation %}\nb\n  {% endgeneration %}\nc"), "a\nb\nc");
    assert_eq!(show("a\n {%- generation -%} \nb {%- endgeneration %} c"), "ab c");
    assert_eq!(show("{{ '{% generation' }}"), "{% generation");
}

#[test]
fn a_template_can_refuse_a_conversation() {
    let text = "{% if messages[0].role != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}ok";
    assert_eq!(render_with(text, &[Message::new("user", "x")]).unwrap(), "ok");
    let message = refusal(text, &[Message::new("tool", "x")]);
    assert!(message.contains("the template refuses: begin with the user"), "{message}");
}

#[test]
fn the_date_is_the_one_asked_for() {
    let request = ChatRequest { now: Some(UNIX_EPOCH + Duration::from_secs(1_709_164_799)), ..ChatRequest::default() };
    assert_eq!(template("{{ strftime_now('%d %b %Y') }}").render(&request).unwrap(), "28 Feb 2024");
}

#[test]
fn special_tokens_and_variables_are_seen() {
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"}).as_object().cloned().unwrap();
    let template = ChatTemplate::from_text(
        "{{ bos_token }}{{ enable_thinking }}{{ eos_token }}{{ tools is none }}{{ add_generation_prompt }}",
        tokens,
    )
    .unwrap();
    let variables = json!({"enable_thinking": false, "eos_token": "!"}).as_object().cloned().unwrap();
    let request = ChatRequest { variables, add_generation_prompt: true, ..ChatRequest::default() };
    assert_eq!(template.render(&request).unwrap(), "<s>False!TrueTrue");
}

#[test]
fn arguments_of_a_call_arrive_as_an_object() {
    let conversation = messages(json!([{"role": "assistant", "content": null, "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": "{\"city\": \"北京\", \"days\": 2}"}},
        {"type": "function", "function": {"name": "g", "arguments": "not json"}}]}]));
    let text = "{{ messages[0].content is none }}{% for call in messages[0].tool_calls %}|{{ call.function.arguments | tojson }}{% endfor %}";
    assert_eq!(render_with(text, &conversation).unwrap(), "True|{\"city\": \"北京\", \"days\": 2}|\"not json\"");
}

#[test]
fn content_in_parts_is_flattened_for_a_template_of_text() {
    let conversation = messages(
        json!([{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]),
    );
    assert_eq!(render_with("{% for m in messages %}{{ m.content }}{% endfor %}", &conversation).unwrap(), "one\ntwo");
    let aware = "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}";
    assert_eq!(render_with(aware, &conversation).unwrap(), "[one][two]");
    let picture = messages(json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]));
    assert!(refusal("{{ messages[0].content }}", &picture).contains("image_url"));
}

#[test]
fn reasoning_is_found_under_every_name() {
    let conversation = messages(json!([{"role": "assistant", "content": "x", "reasoning": "why"}]));
    assert_eq!(
        render_with("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", &conversation).unwrap(),
        "whywhy"
    );
}

#[test]
fn the_final_message_can_be_continued() {
    let conversation = [Message::new("user", "hi"), Message::new("assistant", "I think ")];
    let text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</end>\n{% endfor %}";
    let request = ChatRequest { messages: &conversation, continue_final_message: true, ..ChatRequest::default() };
    assert_eq!(template(text).render(&request).unwrap(), "<user>hi</end>\n<assistant>I think ");
    let trimming = text.replace("m.content", "m.content | trim");
    assert_eq!(template(&trimming).render(&request).unwrap(), "<user>hi</end>\n<assistant>I think");
    assert!(template("nothing").render(&request).unwrap_err().to_string().contains("final message"));
    let both = ChatRequest { add_generation_prompt: true, ..request.clone() };
    assert!(template(text).render(&both).unwrap_err().to_string().contains("add_generation_prompt"));
    let empty = ChatRequest { messages: &[], ..request };
    assert!(template(text).render(&empty).unwrap_err().to_string().contains("no text"));
}

#[test]
fn sources_are_taken_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let read = || {
        let config = TokenizerConfig::from_dir(path).unwrap();
        let template = ChatTemplate::from_dir(path, &config).unwrap()?;
        Some(template.render(&ChatRequest::default()).unwrap())
    };
    assert_eq!(read(), None);
    std::fs::write(
        path.join(TOKENIZER_CONFIG_FILE),
        json!({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "c"}]})
            .to_string(),
    )
    .unwrap();
    assert_eq!(read().as_deref(), Some("c"));
    std::fs::write(path.join(JSON_FILE), r#"{"chat_template": "b"}"#).unwrap();
    assert_eq!(read().as_deref(), Some("b"));
    std::fs::write(path.join(JINJA_FILE), "a").unwrap();
    assert_eq!(read().as_deref(), Some("a"));
}

#[test]
fn tools_choose_the_template_made_for_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(JINJA_FILE), "plain").unwrap();
    std::fs::create_dir(dir.path().join(MORE_TEMPLATES)).unwrap();
    std::fs::write(dir.path().join(MORE_TEMPLATES).join("tool_use.jinja"), "tools").unwrap();
    let template = ChatTemplate::from_dir(dir.path(), &TokenizerConfig::default()).unwrap().unwrap();
    let tools = [json!({"type": "function"})];
    let render = |request: ChatRequest<'_>| template.render(&request).map_err(|e| e.to_string());
    assert_eq!(render(ChatRequest::default()).unwrap(), "plain");
    assert_eq!(render(ChatRequest { tools: Some(&tools), ..ChatRequest::default() }).unwrap(), "tools");
    assert_eq!(render(ChatRequest { tools: Some(&[]), ..ChatRequest::default() }).unwrap(), "plain");
    assert_eq!(render(ChatRequest { template: Some("tool_use"), ..ChatRequest::default() }).unwrap(), "tools");
    assert!(
        render(ChatRequest { template: Some("rag"), ..ChatRequest::default() })
            .unwrap_err()
            .contains("default, tool_use")
    );
}

#[test]
fn a_template_that_does_not_compile_is_named_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(JINJA_FILE), "{% if %}").unwrap();
    let message = ChatTemplate::from_dir(dir.path(), &TokenizerConfig::default()).unwrap_err().to_string();
    assert!(message.contains(JINJA_FILE) && message.contains("fix the template"), "{message}");
    std::fs::remove_file(dir.path().join(JINJA_FILE)).unwrap();
    for value in [json!(3), json!([{"name": "x"}]), json!(["x"])] {
        let mut config = TokenizerConfig::default();
        config.chat_template = Some(value);
        let message = ChatTemplate::from_dir(dir.path(), &config).unwrap_err().to_string();
        assert!(message.contains("chat_template"), "{message}");
    }
}

#[test]
fn a_template_cannot_run_for_ever() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(refusal(endless, &[]).contains("fuel"));
    assert!(refusal("{{ range(100001) }}", &[]).contains("range"));
    assert!(refusal("{{ range(0, 9, 0) }}", &[]).contains("step"));
    assert_eq!(show("{{ range(5, 1) }}{{ range(-9223372036854775807, -9223372036854775806, 3) | length }}"), "[]1");
    let doubled = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
    assert!(refusal(&format!("{doubled}{{{{ ns.l|tojson }}}}"), &[]).contains("bytes of text"));
    assert!(refusal(&format!("{doubled}{{{{ ns.l }}}}"), &[]).contains("bytes of text"));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(refusal(recursive, &[]).contains("recursion"));
    let long = "{% for a in range(9000) %}{{ 'x' * 10000 }}{% endfor %}";
    assert!(render_with(long, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_template_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select("{}%-|'\"()[]:,.~+*aif0".chars().collect::<Vec<_>>())), 1..6)) {
        let mut text: Vec<char> = "{%- macro h(r) %}<{{ r }}>\n{% endmacro %}{% for m in messages[::-1] %}{%- if m.role == 'user' and m.content is string %}{{ h(m.role) + m.content | trim }}{% generation %}{{ {'a': [1, 2.5]} | tojson(indent=2) }}{% endgeneration %}{% endif %}{% endfor %}{{ strftime_now('%Y') }}{{ range(3, -1, -1) }}".chars().collect();
        for (at, character) in edits {
            let at = at.index(text.len());
            text[at] = character;
        }
        let text: String = text.into_iter().collect();
        if let Ok(template) = ChatTemplate::from_text(text, Map::new()) {
            let _ = template.render(&ChatRequest { messages: &[Message::new("user", "中文")], ..ChatRequest::default() });
        }
    }

    /// What is written as JSON reads back as the same value.
    #[test]
    fn written_json_reads_back(text in "\\PC{0,20}", number in any::<i32>().prop_map(|n| f64::from(n) / 64.0), whole in any::<i64>()) {
        let value = json!({"t": text, "list": [number, whole, null, true, {}], text.clone(): []});
        let variables = json!({"v": value}).as_object().cloned().unwrap();
        for filter in ["tojson", "tojson(indent=3)", "tojson(ensure_ascii=true)"] {
            let shown = template(&format!("{{{{ v | {filter} }}}}")).render(&ChatRequest { variables: variables.clone(), ..ChatRequest::default() }).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Value>(&shown).unwrap(), &value);
        }
    }
}
