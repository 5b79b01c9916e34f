//! The stages as written: their kinds, their fields, and where their references lead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use super::check::Checker;
use super::document::{Item, Report, Span, Table};
use super::suggest;
use crate::stages::{Kind, Reference, kind::ANY};

/// A stage as written.
pub(super) struct StageEntry<'a> {
    pub name: &'a str,
    pub name_span: Span,
    /// `None` when the kind is missing or unknown, which is reported.
    pub kind: Option<&'a Kind>,
    pub table: &'a Table,
}

impl<'a> StageEntry<'a> {
    /// The artifact kinds that it gives: its kind's, and those that it names itself where its kind lets it.
    fn gives(&self) -> Vec<&'a str> {
        let Some(kind) = self.kind else { return Vec::new() };
        let declared = kind.declares_gives().and_then(|field| self.table.get(field));
        let declared = declared.into_iter().flat_map(Item::one_or_many).filter_map(Item::text);
        kind.gives.iter().copied().chain(declared).collect()
    }
}

/// Everything that a reference can lead to.
pub(super) struct Graph<'a> {
    pub stages: Vec<StageEntry<'a>>,
    /// Name → declared artifact kind.
    pub data: BTreeMap<&'a str, Option<&'a str>>,
    /// Name → declared artifact kind.
    pub models: BTreeMap<&'a str, Option<&'a str>>,
    /// Every artifact kind that some stage kind gives or accepts.
    artifacts: BTreeSet<&'a str>,
    /// Name of a stage → its place.
    places: HashMap<&'a str, usize>,
}

/// Why a reference leads nowhere. Its message names what is meant, which takes a look at everything there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken<'a> {
    /// The text has another form.
    NoReference,
    /// There is nothing of that name.
    Nothing,
    /// It gives these artifact kinds only.
    Misfit(Vec<&'a str>),
}

/// A field of a stage that an axis or an ablation sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Target {
    pub stage: usize,
    pub field: String,
}

impl Target {
    /// Do they set the same field, or one a table and the other an entry of it?
    pub fn overlaps(&self, other: &Self) -> bool {
        let within = |table: &str, entry: &str| entry.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
        let (one, two) = (self.field.as_str(), other.field.as_str());
        self.stage == other.stage && (one == two || within(one, two) || within(two, one))
    }
}

impl<'a> Graph<'a> {
    /// Reads `[stages]`, `[data]` and `[models]`; unknown kinds and files that are not there are reported.
    pub fn read(report: &mut Report, merged: &'a Table, kinds: &'a [Kind]) -> Self {
        let mut stages = Vec::new();
        for entry in section(merged, "stages") {
            let Some(table) = entry.item.table() else { continue };
            let kind = stage_kind(report, &entry.key, entry.key_span, table, kinds);
            stages.push(StageEntry { name: &entry.key, name_span: entry.key_span, kind, table });
        }
        let artifacts = artifacts(kinds);
        let data = externals(report, merged, "data", &artifacts);
        let models = externals(report, merged, "models", &artifacts);
        let places = stages.iter().enumerate().map(|(place, stage)| (stage.name, place)).collect();
        Self { stages, data, models, artifacts, places }
    }

    pub fn stage(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// Checks what each stage says. `bound` are the fields that an axis gives in every point.
    pub fn check_stages(&self, report: &mut Report, bound: &BTreeSet<Target>) {
        for (index, stage) in self.stages.iter().enumerate() {
            let Some(kind) = stage.kind else { continue };
            let given =
                bound.iter().filter(|target| target.stage == index).map(|target| target.field.clone()).collect();
            let mut fields = stage.table.clone();
            fields.remove("kind");
            let what = format!("stage `{}` (kind `{}`)", stage.name, kind.name);
            Checker::new(report).table(&fields, stage.name_span, &closed(&kind.schema), &what, &given);
            for entry in &fields.entries {
                self.check_reference(report, index, &entry.key, &entry.item);
                if kind.declares_gives() == Some(&entry.key) {
                    self.check_gives(report, &entry.item);
                }
            }
        }
        self.check_cycles(report);
    }

    /// Checks what profiles say of stages, whether or not they are chosen.
    pub fn check_profiles(&self, report: &mut Report, merged: &Table) {
        for profile in section(merged, "profiles") {
            let Some(table) = profile.item.table() else { continue };
            for entry in section(table, "stages") {
                let Some(fields) = entry.item.table() else { continue };
                let Some(index) = self.stage(&entry.key) else {
                    if fields.get("kind").is_none() {
                        let known = self.stages.iter().map(|stage| stage.name);
                        let hint = suggest::hint(&entry.key, "stages", known);
                        report.error(
                            entry.key_span,
                            format!("profile `{}`: no stage `{}`", profile.key, entry.key),
                            hint,
                        );
                    }
                    continue;
                };
                let Some(kind) = self.stages[index].kind.filter(|_| fields.get("kind").is_none()) else { continue };
                let what = format!("stage `{}` (kind `{}`)", entry.key, kind.name);
                Checker::partial(report).table(fields, entry.key_span, &closed(&kind.schema), &what, &BTreeSet::new());
                for field in &fields.entries {
                    self.check_reference(report, index, &field.key, &field.item);
                }
            }
        }
    }

    /// Checks a value that an axis or an ablation gives to a field.
    pub fn check_target(&self, report: &mut Report, target: &Target, item: &Item) {
        let stage = &self.stages[target.stage];
        let Some(kind) = stage.kind else { return };
        let what = format!("`{}.{}`", stage.name, target.field);
        Checker::new(report).value(item, kind.schema_of(&target.field), &what);
        self.check_reference(report, target.stage, &target.field, item);
    }

    /// The target that `text` (`stage.field`) names.
    pub fn target(&self, report: &mut Report, text: &str, span: Span) -> Option<Target> {
        let Some((stage_name, field)) = text.split_once('.') else {
            let message = format!("`{text}` is no `stage.field`");
            let hint = match self.stage(text) {
                Some(_) => format!("name the field too: `{text}.FIELD`"),
                None => "a target names a stage and a field of it, as in `embed.inject`".to_owned(),
            };
            report.error(span, message, hint);
            return None;
        };
        let Some(index) = self.stage(stage_name) else {
            let known = self.stages.iter().map(|stage| stage.name);
            report.error(span, format!("no stage `{stage_name}`"), suggest::hint(stage_name, "stages", known));
            return None;
        };
        let kind = self.stages[index].kind?;
        let known = |field: &str| kind.fields().any(|(name, _)| name == field);
        let is_entry = field.split_once('.').is_some_and(|(table, name)| kind.is_table(table) && !name.is_empty());
        if kind.declares_gives() == Some(field) {
            let hint = "what a stage gives is the same in every point; make two stages of it";
            report.error(span, format!("`{text}` cannot vary"), hint);
            return None;
        }
        if !known(field) && !is_entry {
            let hint = suggest::hint(field, "fields", kind.fields().map(|(name, _)| name));
            report.error(span, format!("stage `{stage_name}` (kind `{}`) has no field `{field}`", kind.name), hint);
            return None;
        }
        Some(Target { stage: index, field: field.to_owned() })
    }

    /// `stage.field` of a target.
    pub fn target_name(&self, target: &Target) -> String {
        format!("{}.{}", self.stages[target.stage].name, target.field)
    }

    fn check_reference(&self, report: &mut Report, stage: usize, field: &str, item: &Item) {
        let Some(accepts) = self.stages[stage].kind.and_then(|kind| kind.accepts(field)) else { return };
        for (field, item) in references_in(field, item) {
            let Some(text) = item.text() else { continue };
            if let Err(broken) = self.follow(text, &accepts) {
                report.error_of(item.span, || self.tell(&broken, text, &accepts, &field));
            }
        }
    }

    /// Checks the artifact kinds that a stage says it gives.
    fn check_gives(&self, report: &mut Report, item: &Item) {
        for item in item.one_or_many() {
            let Some(text) = item.text().filter(|text| !self.artifacts.contains(text)) else { continue };
            let hint = suggest::hint(text, "artifact kinds", self.artifacts.iter().copied());
            report.error(item.span, format!("no artifact kind `{text}`"), hint);
        }
    }

    /// Whether the reference `text` leads to something that gives one of `accepts`.
    pub fn follow(&self, text: &str, accepts: &[&str]) -> Result<(), Broken<'a>> {
        let reference = Reference(text.to_owned());
        let Some((space, name)) = reference.parts() else { return Err(Broken::NoReference) };
        let gives: Vec<&str> = match space {
            "stage" => match self.stage(name) {
                Some(index) if self.stages[index].kind.is_none() => return Ok(()),
                Some(index) => self.stages[index].gives(),
                None => return Err(Broken::Nothing),
            },
            _ => match if space == "data" { self.data.get(name) } else { self.models.get(name) } {
                Some(Some(kind)) => vec![*kind],
                Some(None) => return Ok(()),
                None => return Err(Broken::Nothing),
            },
        };
        if accepts.contains(&ANY) || gives.iter().any(|kind| accepts.contains(kind)) {
            return Ok(());
        }
        Err(Broken::Misfit(gives))
    }

    /// Message and hint for what [`Graph::follow`] found of the value `text` of `field`.
    pub fn tell(&self, broken: &Broken<'_>, text: &str, accepts: &[&str], field: &str) -> (String, String) {
        let reference = Reference(text.to_owned());
        match (broken, reference.parts()) {
            (Broken::Misfit(gives), _) => {
                let given = if gives.is_empty() { "nothing by name".to_owned() } else { suggest::list(gives) };
                let fitting = self.fitting(accepts);
                let hint = match fitting.is_empty() {
                    true => format!("no stage, model or data gives {} yet", suggest::list(accepts)),
                    false => format!("these fit: {}", suggest::list(&fitting)),
                };
                (format!("`{text}` gives {given}, but `{field}` takes {}", suggest::list(accepts)), hint)
            }
            (Broken::Nothing, Some((space, name))) => self.nothing(text, space, name, accepts),
            _ => {
                let everything = self.everything();
                let alike = everything.iter().find(|known| known.split(':').nth(1) == Some(text)).map(String::as_str);
                let near = || suggest::nearest(text, everything.iter().map(String::as_str)).first().copied();
                let hint = match alike.or_else(near) {
                    Some(first) => format!("did you mean `{first}`?"),
                    None => "a reference is `stage:NAME`, `model:NAME` or `data:NAME`".to_owned(),
                };
                (format!("`{text}` is no reference"), hint)
            }
        }
    }

    fn nothing(&self, text: &str, space: &str, name: &str, accepts: &[&str]) -> (String, String) {
        let everything = self.everything();
        let fitting = self.fitting(accepts);
        let elsewhere = everything.iter().find(|known| known.split(':').nth(1) == Some(name));
        let candidates: Vec<&str> =
            everything.iter().filter(|known| known.starts_with(&format!("{space}:"))).map(String::as_str).collect();
        let names = candidates.iter().map(|known| &known[space.len() + 1..]);
        let hint = match (suggest::nearest(name, names).first(), elsewhere) {
            (_, Some(other)) => format!("did you mean `{other}`?"),
            (Some(near), None) => format!("did you mean `{space}:{near}`?"),
            (None, None) if !fitting.is_empty() => format!("these fit: {}", suggest::list(&fitting)),
            (None, None) => {
                let table = if space == "stage" {
                    "stages"
                } else if space == "model" {
                    "models"
                } else {
                    "data"
                };
                format!("add `[{table}.{name}]`")
            }
        };
        (format!("`{text}` leads to nothing: no {space} `{name}`"), hint)
    }

    fn everything(&self) -> Vec<String> {
        let stages = self.stages.iter().map(|stage| format!("stage:{}", stage.name));
        let models = self.models.keys().map(|name| format!("model:{name}"));
        stages.chain(models).chain(self.data.keys().map(|name| format!("data:{name}"))).collect()
    }

    fn fitting(&self, accepts: &[&str]) -> Vec<String> {
        if accepts.contains(&ANY) {
            return self.everything();
        }
        let fits = |kind: &Option<&str>| kind.is_some_and(|kind| accepts.contains(&kind));
        let stages = self.stages.iter().filter(|stage| stage.gives().iter().any(|given| accepts.contains(given)));
        let models = self.models.iter().filter(|(_, kind)| fits(kind)).map(|(name, _)| format!("model:{name}"));
        let data = self.data.iter().filter(|(_, kind)| fits(kind)).map(|(name, _)| format!("data:{name}"));
        stages.map(|stage| format!("stage:{}", stage.name)).chain(models).chain(data).collect()
    }

    /// The stages that the fields of a stage refer to, by what the file says.
    fn upstream(&self, stage: usize) -> Vec<(usize, Span)> {
        let Some(kind) = self.stages[stage].kind else { return Vec::new() };
        let fields = self.stages[stage].table.entries.iter().filter(|entry| kind.is_reference(&entry.key));
        let references = fields.flat_map(|entry| references_in(&entry.key, &entry.item));
        references.filter_map(|(_, item)| Some((self.referred(item.text()?)?, item.span))).collect()
    }

    /// The stage that a reference's text leads to.
    pub fn referred(&self, text: &str) -> Option<usize> {
        self.stage(text.strip_prefix("stage:")?)
    }

    fn check_cycles(&self, report: &mut Report) {
        let mut state = vec![0_u8; self.stages.len()];
        for stage in 0..self.stages.len() {
            self.walk(report, stage, &mut state, &mut Vec::new());
        }
    }

    fn walk(&self, report: &mut Report, stage: usize, state: &mut [u8], path: &mut Vec<usize>) {
        if state[stage] != 0 {
            return;
        }
        state[stage] = 1;
        path.push(stage);
        for (next, span) in self.upstream(stage) {
            match path.iter().position(|on| *on == next) {
                Some(at) => report.error(span, self.cycle(&path[at..]), CYCLE_HINT),
                None => self.walk(report, next, state, path),
            }
        }
        path.pop();
        state[stage] = 2;
    }

    /// The message about a cycle of these stages.
    pub fn cycle(&self, stages: &[usize]) -> String {
        let around = stages.iter().chain(stages.first());
        let names: Vec<String> = around.map(|stage| format!("`{}`", self.stages[*stage].name)).collect();
        format!("stages need each other in a cycle: {}", names.join(" needs "))
    }
}

/// What to do about a cycle.
pub(super) const CYCLE_HINT: &str = "a stage cannot need its own result; change one of these references";

/// The schema of a stage's settings, with unknown keys denied even if the kind forgot to say so.
fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    schema["additionalProperties"] = Value::Bool(false);
    schema
}

/// The references in the value of a field: itself, each of a list, or the entries of a table of references, which are
/// called `field.NAME`.
pub(super) fn references_in<'i>(field: &str, item: &'i Item) -> Vec<(String, &'i Item)> {
    match item.table() {
        Some(table) => table.entries.iter().map(|entry| (format!("{field}.{}", entry.key), &entry.item)).collect(),
        None => item.one_or_many().iter().map(|item| (field.to_owned(), item)).collect(),
    }
}

/// Every artifact kind that some stage kind gives or accepts.
fn artifacts(kinds: &[Kind]) -> BTreeSet<&str> {
    let given = kinds.iter().flat_map(|kind| kind.gives.iter().copied());
    let accepted = kinds.iter().flat_map(|kind| kind.fields().filter_map(|(field, _)| kind.accepts(field))).flatten();
    given.chain(accepted).filter(|kind| *kind != ANY).collect()
}

/// The entries of a table at the top.
pub(super) fn section<'a>(merged: &'a Table, name: &str) -> impl Iterator<Item = &'a super::document::Entry> {
    merged.get(name).and_then(Item::table).into_iter().flat_map(|table| &table.entries)
}

fn stage_kind<'a>(report: &mut Report, name: &str, span: Span, table: &Table, kinds: &'a [Kind]) -> Option<&'a Kind> {
    let known = || kinds.iter().map(|kind| kind.name);
    let Some(item) = table.get("kind") else {
        let misspelled = table.entries.iter().find(|entry| {
            let fields = kinds.iter().flat_map(Kind::fields).map(|(field, _)| field);
            let known: BTreeSet<&str> = fields.chain(["kind"]).collect();
            suggest::nearest(&entry.key, known).first() == Some(&"kind")
        });
        match misspelled {
            Some(entry) => {
                let message = format!("unknown key `{}` in stage `{name}`", entry.key);
                report.error(entry.key_span, message, "did you mean `kind`?");
            }
            None => {
                let kinds: Vec<&str> = known().collect();
                let hint = format!("add `kind = \"…\"`, one of {}", suggest::list(&kinds));
                report.error(span, format!("stage `{name}` needs `kind`"), hint);
            }
        }
        return None;
    };
    let Some(text) = item.text() else {
        if item.is_valid() {
            report.error(item.span, format!("`kind` of stage `{name}` must be text"), "write `kind = \"…\"`");
        }
        return None;
    };
    let kind = kinds.iter().find(|kind| kind.name == text);
    if kind.is_none() {
        report.error(item.span, format!("no stage kind `{text}`"), suggest::hint(text, "kinds", known()));
    }
    kind
}

fn externals<'a>(
    report: &mut Report,
    merged: &'a Table,
    space: &str,
    artifacts: &BTreeSet<&str>,
) -> BTreeMap<&'a str, Option<&'a str>> {
    let mut all = BTreeMap::new();
    for entry in section(merged, space) {
        let Some(table) = entry.item.table() else { continue };
        let name = &entry.key;
        let mut declared = None;
        if let Some((item, text)) = table.get("kind").and_then(|item| Some((item, item.text()?))) {
            if artifacts.contains(text) {
                declared = Some(text);
            } else {
                let hint = suggest::hint(text, "artifact kinds", artifacts.iter().copied());
                report.error(item.span, format!("no artifact kind `{text}`"), hint);
            }
        }
        if let Some((item, path)) = table.get("path").and_then(|item| Some((item, item.text()?)))
            && !path.is_empty()
            && !Path::new(path).exists()
        {
            let folder = std::env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default();
            let hint = format!(
                "paths are relative to the working folder (`{folder}`); correct it here, with `--set {space}.{name}.path=…` \
                 or with `SOCTOK_{}__{}__PATH`",
                space.to_uppercase(),
                name.to_uppercase()
            );
            report.error(item.span, format!("`{path}` does not exist"), hint);
        }
        if space == "models" {
            check_model(report, name, entry.key_span, table);
        }
        all.insert(name.as_str(), declared);
    }
    all
}

fn check_model(report: &mut Report, name: &str, span: Span, table: &Table) {
    let known = ["path", "hub", "revision", "kind"];
    let misspelled = table.keys().any(|key| !known.contains(&key));
    match (table.entry("path"), table.entry("hub")) {
        (None, None) if !misspelled => report.error(
            span,
            format!("model `{name}` needs `path` or `hub`"),
            "add `path = \"folder\"` or `hub = \"owner/name\"` with `revision`",
        ),
        (Some(_), Some(hub)) => report.error(
            hub.key_span,
            format!("model `{name}` has both `path` and `hub`"),
            "keep the one that it comes from",
        ),
        _ => {}
    }
    if let (Some(revision), None) = (table.entry("revision"), table.entry("hub")) {
        let hint = if misspelled {
            "a revision belongs to `hub = \"owner/name\"`"
        } else {
            "add `hub` or take `revision` away"
        };
        report.error(revision.key_span, format!("`revision` of model `{name}` without `hub`"), hint);
    }
}
