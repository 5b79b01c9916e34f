//! Comparison kinds: steps that take one step per point of a selection.
//!
//! A comparison reads the artifacts of its arms and gives rows of figures (differences, intervals, p values). Like a
//! stage it knows nothing of the store or of TOML. To add a kind: one file and one line in [`kinds`].

pub mod pairing;
pub mod rsa;
pub mod scores;
mod targets;
mod verdict;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::stages::{Context, Result, StageError, Summary, kind::Settings};

/// The figure of a comparison's step that holds its sentence.
pub const VERDICT: &str = "verdict";

/// Every kind of comparison.
pub fn kinds() -> Vec<ComparisonKind> {
    vec![ComparisonKind::of::<scores::Scores>(), ComparisonKind::of::<rsa::Rsa>()]
}

/// One point of a comparison.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Axis → label; `ablation` → its name, or `base`.
    pub coordinates: BTreeMap<String, String>,
    /// The folder of the compared stage's artifact. Points that share a step share the folder.
    pub artifact: PathBuf,
}

/// One row of a comparison's result, written to `rows.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the row is about: axis → label for the coordinates that the compared arms share.
    pub coordinates: BTreeMap<String, String>,
    /// `difference`, `low`, `high`, `p_value`, `p_adjusted`, `pairs`, `clusters`, …
    pub figures: Summary,
}

/// Which points: axis (or `ablation`) → its label or labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-selection" = true))]
pub struct Selection(pub BTreeMap<String, Labels>);

/// One label or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Labels {
    /// Exactly this one.
    One(String),
    /// Any of these.
    Several(Vec<String>),
}

impl Selection {
    /// Does it hold for these coordinates? An axis that the point has not is no match.
    pub fn selects(&self, coordinates: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(axis, labels)| {
            coordinates.get(axis).is_some_and(|label| match labels {
                Labels::One(one) => one == label,
                Labels::Several(several) => several.contains(label),
            })
        })
    }
}

/// A kind of comparison. `Config` holds everything of `[comparisons.NAME]` but `kind` and `of`.
pub trait Comparison: 'static {
    /// The `kind` of the experiment file.
    const KIND: &'static str;
    /// Raised when the same settings and arms give another result, a changed default included.
    const VERSION: u32;
    /// One sentence: what it does.
    const SUMMARY: &'static str;
    /// Every figure that a row can have; settings decide which of them it has.
    const FIGURES: &'static [&'static str];
    /// Its settings.
    type Config: Serialize + DeserializeOwned + JsonSchema;

    /// The coordinates of the rows that these arms will give. Nothing is read: of artifacts it counts which arms share one.
    fn rows(config: &Self::Config, arms: &[Arm]) -> Result<Vec<BTreeMap<String, String>>>;

    /// Compares `column` of the arms' artifacts.
    fn run(config: &Self::Config, column: &str, arms: &[Arm], context: &Context) -> Result<Vec<Row>>;

    /// What the rows say, in one sentence for a reader who reads only that; `None` where a kind says nothing.
    fn verdict(_config: &Self::Config, _rows: &[Row]) -> Option<String> {
        None
    }
}

type Rows = fn(&Settings, &[Arm]) -> Result<Vec<BTreeMap<String, String>>>;
type Run = fn(&Settings, &str, &[Arm], &Context) -> Result<Vec<Row>>;
type Verdict = fn(&Settings, &[Row]) -> Result<Option<String>>;

/// A comparison kind without its types.
#[derive(Clone)]
pub struct ComparisonKind {
    /// See [`Comparison::KIND`].
    pub name: &'static str,
    /// See [`Comparison::VERSION`].
    pub version: u32,
    /// See [`Comparison::SUMMARY`].
    pub summary: &'static str,
    /// See [`Comparison::FIGURES`].
    pub figures: &'static [&'static str],
    /// JSON Schema of the settings.
    pub schema: Value,
    rows: Rows,
    run: Run,
    verdict: Verdict,
}

impl ComparisonKind {
    /// The kind that `C` implements.
    pub fn of<C: Comparison>() -> Self {
        Self {
            name: C::KIND,
            version: C::VERSION,
            summary: C::SUMMARY,
            figures: C::FIGURES,
            schema: crate::stages::kind::schema_of::<C::Config>(),
            rows: |settings, arms| C::rows(&typed::<C>(settings)?, arms),
            run: |settings, column, arms, context| C::run(&typed::<C>(settings)?, column, arms, context),
            verdict: |settings, rows| Ok(C::verdict(&typed::<C>(settings)?, rows)),
        }
    }

    /// The fields that choose points.
    pub fn selections(&self) -> impl Iterator<Item = &str> {
        let fields = self.schema["properties"].as_object().into_iter().flatten();
        fields.filter(|(_, schema)| is_selection(schema)).map(|(name, _)| name.as_str())
    }

    /// See [`Comparison::rows`].
    pub fn rows(&self, settings: &Settings, arms: &[Arm]) -> Result<Vec<BTreeMap<String, String>>> {
        (self.rows)(settings, arms)
    }

    /// See [`Comparison::run`].
    pub fn run(&self, settings: &Settings, column: &str, arms: &[Arm], context: &Context) -> Result<Vec<Row>> {
        (self.run)(settings, column, arms, context)
    }

    /// See [`Comparison::verdict`].
    pub fn verdict(&self, settings: &Settings, rows: &[Row]) -> Result<Option<String>> {
        (self.verdict)(settings, rows)
    }
}

fn typed<C: Comparison>(settings: &Settings) -> Result<C::Config> {
    serde_json::from_value(Value::Object(settings.clone()))
        .map_err(|error| StageError::new(format!("settings of comparison `{}`: {error}", C::KIND)))
}

/// Whether a field of this schema is a [`Selection`], which may be left out.
pub fn is_selection(schema: &Value) -> bool {
    let forms = ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    schema["x-selection"] == true || forms.into_iter().any(|form| form["x-selection"] == true)
}
