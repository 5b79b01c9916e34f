//! `soctok stages`: the stage kinds, or the settings of one.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::experiment::rules::RULES;
use crate::experiment::{describe, inline, nearest, schema};
use crate::stages::Kind;

/// Lists the kinds, or the settings of `kind`. An unknown kind gives the message to show (inner `Err`).
pub fn run(kinds: &[Kind], kind: Option<&str>, json: bool, out: &mut dyn Write) -> io::Result<Result<(), String>> {
    let Some(name) = kind else {
        list(kinds, json, out)?;
        return Ok(Ok(()));
    };
    let Some(kind) = kinds.iter().find(|kind| kind.name == name) else {
        let near = nearest(name, kinds.iter().map(|kind| kind.name));
        let hint = match near.first() {
            Some(first) => format!("did you mean `{first}`?"),
            None => "`soctok stages` lists the kinds".to_owned(),
        };
        return Ok(Err(format!("no stage kind `{name}`\nhint: {hint}")));
    };
    if json {
        writeln!(out, "{:#}", facts(kind))?
    } else {
        settings(kind, out)?
    }
    Ok(Ok(()))
}

fn list(kinds: &[Kind], json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        return writeln!(out, "{:#}", Value::Array(kinds.iter().map(facts).collect()));
    }
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    for kind in kinds {
        writeln!(out, "{:width$}  {}", kind.name, kind.summary)?;
    }
    Ok(())
}

fn facts(kind: &Kind) -> Value {
    let rules = RULES.iter().filter(|rule| rule.kind == kind.name);
    let rules: Vec<Value> = rules
        .map(|rule| json!({ "name": rule.name, "verdict": rule.verdict.word(), "sentence": rule.sentence }))
        .collect();
    json!({
        "kind": kind.name, "version": kind.version, "summary": kind.summary, "gives": kind.gives,
        "rules": rules, "schema": schema::described(kind),
    })
}

fn settings(kind: &Kind, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}: {}", kind.name, kind.summary)?;
    match (kind.gives, kind.declares_gives()) {
        ([], Some(field)) => writeln!(out, "gives: what `{field}` names")?,
        (gives, _) => writeln!(out, "gives: {}", gives.join(", "))?,
    }
    let required = kind.schema["required"].as_array().cloned().unwrap_or_default();
    for (field, schema) in kind.fields() {
        let default = match (required.contains(&json!(field)), schema.get("default")) {
            (true, _) => "required".to_owned(),
            (false, None | Some(Value::Null)) => "may be left out".to_owned(),
            (false, Some(value)) => format!("default `{}`", inline(value)),
        };
        writeln!(out, "\n  {field}: {}; {default}", describe(schema))?;
        for line in schema["description"].as_str().unwrap_or_default().lines() {
            writeln!(out, "{}", format!("      {line}").trim_end())?;
        }
    }
    let rules: Vec<_> = RULES.iter().filter(|rule| rule.kind == kind.name).collect();
    if !rules.is_empty() {
        writeln!(out, "\nrules:")?;
    }
    for rule in rules {
        writeln!(out, "  {} ({}): {}", rule.name, rule.verdict.word(), rule.sentence)?;
    }
    Ok(())
}
