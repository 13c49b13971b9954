//! The schema in `docs` and the files that are written agree.

use serde_json::Value;

use qiao_conformance::profile;
use qiao_conformance::report::{Form, json};
use qiao_core::OpKind;

use crate::sample;

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/report-schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the schema has type '{other}', which is none"),
    }
}

/// Whether a value is as a schema says; of JSON Schema 2020-12 the words that ours uses.
///
/// # Errors
/// Where it is not, and why.
fn hold(value: &Value, schema: &Value, root: &Value, at: &str) -> Result<(), String> {
    const KNOWN: [&str; 18] = [
        "$schema",
        "$id",
        "$defs",
        "$ref",
        "$comment",
        "title",
        "description",
        "type",
        "required",
        "properties",
        "items",
        "prefixItems",
        "enum",
        "const",
        "anyOf",
        "additionalProperties",
        "minItems",
        "maxItems",
    ];
    let words = schema.as_object().ok_or(format!("{at}: the schema is no object"))?;
    if let Some(word) = words.keys().find(|w| !KNOWN.contains(&w.as_str())) {
        panic!("this check does not know the schema's word '{word}'");
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let found = root.pointer(reference.trim_start_matches('#')).ok_or(format!("no {reference}"))?;
        return hold(value, found, root, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let tries: Vec<_> = choices.iter().map(|choice| hold(value, choice, root, at)).collect();
        let whys = || tries.iter().filter_map(|t| t.clone().err()).collect::<Vec<_>>().join(" / ");
        return if tries.iter().any(Result::is_ok) { Ok(()) } else { Err(whys()) };
    }
    match &schema["type"] {
        Value::Null => {}
        Value::String(name) if is_of(value, name) => {}
        Value::Array(names) if names.iter().any(|n| is_of(value, n.as_str().unwrap())) => {}
        other => return Err(format!("{at}: {value} is not {other}")),
    }
    if words.contains_key("const") && schema["const"] != *value {
        return Err(format!("{at}: {value} is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|list| !list.contains(value)) {
        return Err(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            object.get(name).ok_or(format!("{at}: no '{name}'"))?;
        }
        for (name, inner) in object {
            match &schema["properties"][name] {
                Value::Null if schema["additionalProperties"] == Value::Bool(false) => {
                    return Err(format!("{at}: '{name}' is not in the schema"));
                }
                Value::Null => {}
                known => hold(inner, known, root, &format!("{at}.{name}"))?,
            }
        }
    }
    if let Some(list) = value.as_array() {
        let first = schema["prefixItems"].as_array().cloned().unwrap_or_default();
        for (i, inner) in list.iter().enumerate() {
            let known = first.get(i).unwrap_or(&schema["items"]);
            if !known.is_null() {
                hold(inner, known, root, &format!("{at}[{i}]"))?;
            }
        }
        let within =
            |word: &str, ok: fn(u64, u64) -> bool| schema[word].as_u64().is_none_or(|n| ok(list.len() as u64, n));
        if !within("minItems", |n, least| n >= least) || !within("maxItems", |n, most| n <= most) {
            return Err(format!("{at}: {} items", list.len()));
        }
    }
    Ok(())
}

#[test]
fn a_written_report_is_as_the_schema_says() {
    let schema = schema();
    let mut demanding = sample::clean(qiao_conformance::Profile::Device);
    demanding.check.as_mut().unwrap().required = profile::required(&[OpKind::Add, OpKind::KvWrite], &[]);
    demanding.check.as_mut().unwrap().held = profile::held(qiao_conformance::Profile::Device, &[]);
    for report in [sample::report(), sample::clean(qiao_conformance::Profile::Smoke), demanding] {
        let value: Value = serde_json::from_str(&Form::Json.write(&report)).unwrap();
        hold(&value, &schema, &schema, "report").unwrap();
    }
}

#[test]
fn every_key_of_a_report_is_in_the_schema_and_every_required_key_is_missed() {
    let schema = schema();
    let value: Value = serde_json::from_str(&json::write(&sample::report())).unwrap();
    for name in schema["required"].as_array().unwrap() {
        let mut less = value.clone();
        less.as_object_mut().unwrap().remove(name.as_str().unwrap());
        assert!(hold(&less, &schema, &schema, "report").is_err(), "{name}");
    }
    let mut more = value.clone();
    more["surprise"] = Value::Bool(true);
    assert!(hold(&more, &schema, &schema, "report").is_err());
    let mut other = value.clone();
    other["check"]["records"][0]["status"] = "fine".into();
    assert!(hold(&other, &schema, &schema, "report").is_err());
    let mut wrong = value;
    wrong["seconds"] = "long".into();
    assert!(hold(&wrong, &schema, &schema, "report").is_err());
}
