//! A tree against a JSON Schema: unknown keys, missing keys, types, ranges, words. Everything that is wrong is found.
//!
//! Reads what schemars writes with inlined subschemas, `pattern`, and `x-aliases` (further words of an enumeration).
//! Whether a reference leads somewhere is `graph`'s.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::document::{Item, ItemValue, Report, Span, Table};
use super::suggest;
use crate::stages::kind::ANY;

/// One mistake, not yet reported.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub span: Span,
    pub message: String,
    pub hint: String,
}

/// Checks and reports.
pub(super) struct Checker<'a> {
    report: &'a mut Report,
    partial: bool,
}

impl<'a> Checker<'a> {
    /// A checker that asks for every required key.
    pub fn new(report: &'a mut Report) -> Self {
        Self { report, partial: false }
    }

    /// A checker of a part of a table (a profile, a protocol): nothing is required.
    pub fn partial(report: &'a mut Report) -> Self {
        Self { report, partial: true }
    }

    /// Checks `table`; `what` names it (``stage `x` ``), `given` are keys that something else gives (an axis).
    pub fn table(&mut self, table: &Table, owner: Span, schema: &Value, what: &str, given: &BTreeSet<String>) {
        let found = check_table(table, owner, schema, what, given, self.partial);
        self.add(found);
    }

    /// Checks the value of `field`.
    pub fn value(&mut self, item: &Item, schema: &Value, field: &str) {
        let found = check_value(item, schema, field, self.partial);
        self.add(found);
    }

    fn add(&mut self, found: Vec<Finding>) {
        for Finding { span, message, hint } in found {
            self.report.error(span, message, hint);
        }
    }
}

fn check_table(
    table: &Table,
    owner: Span,
    schema: &Value,
    what: &str,
    given: &BTreeSet<String>,
    partial: bool,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let no_properties = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&no_properties);
    let additional = schema.get("additionalProperties");
    let mut expected: Vec<&str> = properties.keys().map(String::as_str).collect();
    expected.sort_by_key(|key| table.get(key).is_some());
    let mut meant = BTreeSet::new();
    for entry in &table.entries {
        let inner = format!("`{}`", entry.key);
        match (properties.get(&entry.key), additional) {
            (Some(schema), _) => found.extend(check_value(&entry.item, schema, &inner, partial)),
            (None, Some(Value::Object(each))) => {
                let each = Value::Object(each.clone());
                let inner = match what {
                    "" => inner,
                    _ => format!("`{}.{}`", what.trim_matches('`'), entry.key),
                };
                found.extend(check_value(&entry.item, &each, &inner, partial));
            }
            (None, Some(Value::Bool(false))) => {
                meant.extend(suggest::nearest(&entry.key, expected.iter().copied()).first().copied());
                let place = if what.is_empty() { String::new() } else { format!(" in {what}") };
                let mut hint = suggest::hint(&entry.key, "keys", expected.iter().copied());
                if expected.is_empty() {
                    hint = "nothing can be set here".to_owned();
                }
                found.push(Finding {
                    span: entry.key_span,
                    message: format!("unknown key `{}`{place}", entry.key),
                    hint,
                });
            }
            (None, _) => {}
        }
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !partial && table.get(key).is_none() && !given.contains(key) && !meant.contains(key) {
            let place = if what.is_empty() { "the experiment" } else { what };
            let form = properties.get(key).map(describe).unwrap_or_else(|| "a value".to_owned());
            // At the top stand tables whose names the file chooses.
            let is_section = what.is_empty() && schema["properties"][key]["additionalProperties"].is_object();
            let hint = match is_section {
                true => format!("add `[{key}.NAME]` with its settings, once for each"),
                false => format!("add `{key} = …`, {form}"),
            };
            found.push(Finding { span: owner, message: format!("{place} needs `{key}`"), hint });
        }
    }
    found
}

fn check_value(item: &Item, schema: &Value, what: &str, partial: bool) -> Vec<Finding> {
    if matches!(item.value, ItemValue::Invalid) {
        return Vec::new();
    }
    if let Some(words) = words(schema) {
        return check_word(item, &words, what);
    }
    let forms = alternatives(schema);
    if let [single] = forms.as_slice() {
        return check_single(item, single, what, partial);
    }
    let mut nearest: Option<Vec<Finding>> = None;
    // The words of all forms together: of one form's alone the nearest may not be among them.
    let words: Vec<Value> = forms.iter().filter_map(|form| words_of_one(form)).flatten().collect();
    for form in &forms {
        let found = match words_of_one(form) {
            Some(_) => check_word(item, &words, what),
            None => check_single(item, form, what, partial),
        };
        if found.is_empty() {
            return found;
        }
        let same_form = has_type(item, form) && tag_matches(item, form);
        if same_form && nearest.as_ref().is_none_or(|known| found.len() < known.len()) {
            nearest = Some(found);
        }
    }
    nearest.unwrap_or_else(|| vec![wrong_type(item, schema, what)])
}

fn check_word(item: &Item, words: &[Value], what: &str) -> Vec<Finding> {
    let plain = item.plain();
    if words.contains(&plain) {
        return Vec::new();
    }
    let known: Vec<String> = words.iter().map(written).collect();
    let all = suggest::list(&known);
    let (message, hint) = match &plain {
        Value::String(word) => {
            let near = suggest::nearest(word, known.iter().map(String::as_str));
            let hint = match near.first() {
                Some(first) => format!("did you mean `{first}`? it is one of {all}"),
                None => format!("it is one of {all}"),
            };
            (format!("`{word}` is no value of {what}"), hint)
        }
        _ => (format!("{what} must be one of {all}, found {}", type_of(item)), format!("it is one of {all}")),
    };
    vec![Finding { span: item.span, message, hint }]
}

fn check_single(item: &Item, schema: &Value, what: &str, partial: bool) -> Vec<Finding> {
    if !has_type(item, schema) {
        return vec![wrong_type(item, schema, what)];
    }
    match &item.value {
        ItemValue::Table(table) => check_table(table, item.span, schema, what, &BTreeSet::new(), partial),
        ItemValue::Array(items) => check_array(item, items, schema, what, partial),
        ItemValue::Scalar(Value::Number(number)) => check_range(item, number.as_f64(), schema, what),
        ItemValue::Scalar(Value::String(text)) => check_text(item, text, schema, what),
        _ => Vec::new(),
    }
}

fn check_array(item: &Item, items: &[Item], schema: &Value, what: &str, partial: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let count = |key: &str| schema.get(key).and_then(Value::as_u64);
    let at_least = count("minItems").filter(|least| (items.len() as u64) < *least);
    let at_most = count("maxItems").filter(|most| (items.len() as u64) > *most);
    if let Some(least) = at_least {
        let (message, hint) = match items.len() {
            0 => (format!("{what} is empty"), "give at least one value".to_owned()),
            n => (format!("{what} has {n} values, too few"), format!("give at least {least} values")),
        };
        found.push(Finding { span: item.span, message, hint });
    } else if let Some(most) = at_most {
        let message = format!("{what} has {} values, too many", items.len());
        found.push(Finding { span: item.span, message, hint: format!("give at most {most} values") });
    }
    let prefix = schema["prefixItems"].as_array();
    for (index, inner) in items.iter().enumerate() {
        let each = prefix.and_then(|prefix| prefix.get(index)).or_else(|| schema.get("items"));
        if let Some(each @ Value::Object(_)) = each {
            found.extend(check_value(inner, each, what, partial));
        }
    }
    found
}

fn check_range(item: &Item, number: Option<f64>, schema: &Value, what: &str) -> Vec<Finding> {
    let Some(number) = number else { return Vec::new() };
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let outside = bound("minimum").is_some_and(|least| number < least)
        || bound("exclusiveMinimum").is_some_and(|least| number <= least)
        || bound("maximum").is_some_and(|most| number > most)
        || bound("exclusiveMaximum").is_some_and(|most| number >= most);
    if !outside {
        return Vec::new();
    }
    vec![Finding {
        span: item.span,
        message: format!("`{}` is out of range for {what}", written(&item.plain())),
        hint: format!("{what} is {}", describe(schema)),
    }]
}

fn check_text(item: &Item, text: &str, schema: &Value, what: &str) -> Vec<Finding> {
    let short =
        schema.get("minLength").and_then(Value::as_u64).is_some_and(|least| (text.chars().count() as u64) < least);
    let pattern = schema.get("pattern").and_then(Value::as_str);
    let odd = pattern.and_then(|pattern| Regex::new(pattern).ok()).is_some_and(|pattern| !pattern.is_match(text));
    if !short && !odd {
        return Vec::new();
    }
    let message = match text {
        "" => format!("{what} is empty"),
        _ => format!("`{text}` is no value of {what}"),
    };
    let hint = match schema.get("description").and_then(Value::as_str) {
        Some(description) => format!("{what} is: {description}"),
        None => format!("{what} is {}", describe(schema)),
    };
    vec![Finding { span: item.span, message, hint }]
}

fn wrong_type(item: &Item, schema: &Value, what: &str) -> Finding {
    let form = describe(schema);
    let plain = item.plain();
    let unquoted = match &plain {
        Value::String(text) => toml::de::DeValue::parse(text).ok().and_then(|value| {
            let alike = match value.get_ref() {
                toml::de::DeValue::Boolean(truth) => Value::Bool(*truth),
                toml::de::DeValue::Integer(number) => number.as_str().parse::<i64>().ok()?.into(),
                toml::de::DeValue::Float(number) => number.as_str().parse::<f64>().ok()?.into(),
                _ => return None,
            };
            let item = Item { span: item.span, value: ItemValue::Scalar(alike) };
            alternatives(schema).iter().any(|form| has_type(&item, form)).then(|| text.clone())
        }),
        _ => None,
    };
    let takes = |name: &str| alternatives(schema).iter().any(|form| types(form).contains(&name));
    let hint = match (&plain, unquoted) {
        (_, Some(text)) => format!("write it without quotes: `{text}`"),
        (Value::Number(_) | Value::Bool(_), None) if takes("string") => {
            format!("put it in quotes: `\"{}\"`", written(&plain))
        }
        (Value::Array(items), None) if !takes("array") && items.len() == 1 => "take the brackets away".to_owned(),
        (Value::Object(_) | Value::Array(_), None) => format!("write {form}"),
        (scalar, None) if takes("array") => format!("put it in brackets: `[{}]`", super::show::inline(scalar)),
        _ => format!("write {form}"),
    };
    Finding { span: item.span, message: format!("{what} must be {form}, found {}", type_of(item)), hint }
}

fn written(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn type_of(item: &Item) -> &'static str {
    match &item.value {
        ItemValue::Table(_) => "a table",
        ItemValue::Array(_) => "a list",
        ItemValue::Scalar(Value::Bool(_)) => "a truth value",
        ItemValue::Scalar(Value::Number(number)) if number.is_f64() => "a number with a point",
        ItemValue::Scalar(Value::Number(_)) => "a whole number",
        ItemValue::Scalar(_) => "text",
        ItemValue::Invalid => "nothing",
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => Vec::new(),
    }
}

fn has_type(item: &Item, schema: &Value) -> bool {
    let allowed = types(schema);
    let named = |name: &str| allowed.contains(&name);
    allowed.is_empty()
        || match &item.value {
            ItemValue::Table(_) => named("object"),
            ItemValue::Array(_) => named("array"),
            ItemValue::Scalar(Value::String(_)) => named("string"),
            ItemValue::Scalar(Value::Bool(_)) => named("boolean"),
            ItemValue::Scalar(Value::Number(number)) => named("number") || (named("integer") && !number.is_f64()),
            _ => true,
        }
}

/// Whether the constant properties of a table's form (`type = "…"`) are those of the item.
fn tag_matches(item: &Item, schema: &Value) -> bool {
    let Some(table) = item.table() else { return true };
    schema["properties"].as_object().into_iter().flatten().all(|(key, property)| {
        match (words_of_one(property), table.get(key)) {
            (Some(words), Some(item)) if property.get("const").is_some() => words.contains(&item.plain()),
            _ => true,
        }
    })
}

/// The forms that a schema allows, `null` left out.
fn alternatives(schema: &Value) -> Vec<&Value> {
    for key in ["anyOf", "oneOf"] {
        if let Some(forms) = schema.get(key).and_then(Value::as_array) {
            return forms.iter().filter(|form| form["type"] != "null").flat_map(alternatives).collect();
        }
    }
    vec![schema]
}

fn words_of_one(schema: &Value) -> Option<Vec<Value>> {
    match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(word), _) => Some(vec![word.clone()]),
        (None, Some(words)) => Some(words.iter().filter(|word| !word.is_null()).cloned().collect()),
        _ => None,
    }
}

/// The words of a field that takes one of a few words.
fn words(schema: &Value) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for form in alternatives(schema) {
        all.extend(words_of_one(form)?);
    }
    let nested = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    for form in std::iter::once(schema).chain(nested) {
        all.extend(form["x-aliases"].as_array().into_iter().flatten().cloned());
    }
    Some(all)
}

/// What a schema allows, as a noun: `a whole number of at least 1`.
pub fn describe(schema: &Value) -> String {
    if let Some(words) = words(schema) {
        let words: Vec<String> = words.iter().map(written).collect();
        return format!("one of {}", suggest::list(&words));
    }
    if let Some(accepts) = schema.get("x-accepts").and_then(Value::as_array) {
        let kinds: Vec<&str> = accepts.iter().filter_map(Value::as_str).collect();
        let kinds = if kinds.contains(&ANY) { "any artifact".to_owned() } else { suggest::list(&kinds) };
        let references = if types(schema).contains(&"object") { "a table of references" } else { "a reference" };
        return format!("{references} (`stage:NAME`, `model:NAME` or `data:NAME`) to {kinds}");
    }
    let forms = alternatives(schema);
    if forms.len() > 1 {
        let mut forms: Vec<String> = forms.into_iter().map(describe).collect();
        forms.dedup();
        return forms.join(" or ");
    }
    let Some(form) = forms.first() else { return "nothing".to_owned() };
    let bound = |key: &str| form.get(key).map(written);
    let mut range = Vec::new();
    range.extend(bound("minimum").map(|least| format!("at least {least}")));
    range.extend(bound("exclusiveMinimum").map(|least| format!("more than {least}")));
    range.extend(bound("maximum").map(|most| format!("at most {most}")));
    range.extend(bound("exclusiveMaximum").map(|most| format!("less than {most}")));
    let range = if range.is_empty() { String::new() } else { format!(" of {}", range.join(" and ")) };
    let nouns: Vec<String> = types(form)
        .into_iter()
        .map(|name| match name {
            "integer" => format!("a whole number{range}"),
            "number" => format!("a number{range}"),
            "string" => "text".to_owned(),
            "boolean" => "`true` or `false`".to_owned(),
            "array" => match form.get("items").filter(|items| items.is_object()) {
                Some(items) => format!("a list, each {}", describe(items)),
                None => "a list".to_owned(),
            },
            "object" => "a table".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    if nouns.is_empty() { "any value".to_owned() } else { nouns.join(" or ") }
}
