//! The stage trait, and the same thing with its types erased so that kinds fit in one list.

use litemap::LiteMap;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::estimate::{Estimate, Expected};
use super::{Context, Inputs, Result, StageError, Summary};

/// A kind of stage.
///
/// `Config` denies unknown fields and has a serde default for every field that may be left out; the schema made from it
/// checks experiment files, so give numbers their range (`#[schemars(range(min = 1))]`). A field that takes an input is a
/// `Reference` (or `Option<Reference>`, or a table of them, `BTreeMap<String, Reference>`) carrying
/// `#[schemars(extend("x-accepts" = ["frames"]))]`: the artifact kinds it accepts, or `["any"]`. Such fields stand at the
/// top level of the config. A field that cannot change the result says `#[schemars(extend("x-key" = false))]`, and a list
/// in which the file names the artifact kinds that the stage gives `#[schemars(extend("x-gives" = true))]`.
pub trait Stage: 'static {
    /// The `kind` of the experiment file.
    const KIND: &'static str;
    /// Raised when the same settings and inputs give another result, a changed default included.
    const VERSION: u32;
    /// One sentence: what it does.
    const SUMMARY: &'static str;
    /// The artifact kinds that its folder serves as (`frames`, `features`, …).
    const GIVES: &'static [&'static str];
    /// Whether the step computes on the device. One such step runs at a time on a GPU; the others run beside it.
    const ON_DEVICE: bool = false;
    /// Its settings.
    type Config: Serialize + DeserializeOwned + JsonSchema;

    /// Sets every field that cannot change the result back to its default, so that equal steps get equal keys, and fills
    /// in what is inherited from upstream (`inject` from the projector). A reference set to `None` here is not an input.
    fn normalise(_config: &mut Self::Config, _upstream: &Upstream) {}

    /// What the schema cannot say: relations between fields. Called on the normalised settings when the file is checked.
    fn check(_config: &Self::Config) -> Result<()> {
        Ok(())
    }

    /// What the step will need, before anything runs. What is not known stays unknown.
    fn estimate(_config: &Self::Config, _inputs: &Expected) -> Estimate {
        Estimate::default()
    }

    /// Does the work: reads `inputs`, writes into `context.folder()`, returns the figures for tables.
    fn run(config: &Self::Config, inputs: &Inputs, context: &Context) -> Result<Summary>;
}

/// The resolved settings of the stages that a stage's references point to, by field name.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// Field → (kind, normalised settings with every default filled in). Only `stage:` references appear.
    pub stages: BTreeMap<String, (&'static str, Arc<Settings>)>,
}

impl Upstream {
    /// The setting `name` of the stage that `field` refers to; `None` for a model, data or absent reference.
    pub fn setting<T: DeserializeOwned>(&self, field: &str, name: &str) -> Option<T> {
        let (_, settings) = self.stages.get(field)?;
        T::deserialize(settings.get(name)?).ok()
    }
}

/// The word in `x-accepts` for every artifact kind.
pub const ANY: &str = "any";

/// Settings as they travel between the resolver, the key and the stage.
pub type Settings = Map<String, Value>;

/// A stage kind without its types.
#[derive(Clone)]
pub struct Kind {
    /// See [`Stage::KIND`].
    pub name: &'static str,
    /// See [`Stage::VERSION`].
    pub version: u32,
    /// See [`Stage::SUMMARY`].
    pub summary: &'static str,
    /// See [`Stage::GIVES`].
    pub gives: &'static [&'static str],
    /// JSON Schema of the settings (an object with `properties`).
    pub schema: Value,
    /// See [`Stage::ON_DEVICE`].
    pub on_device: bool,
    fields: LiteMap<String, Field>,
    normalise: fn(&Settings, &Upstream) -> Result<Settings>,
    estimate: fn(&Settings, &Expected) -> Result<Estimate>,
    run: fn(&Settings, &Inputs, &Context) -> Result<Summary>,
}

/// What the schema says of a field, looked up once: a resolver and a planner ask for every step.
#[derive(Clone)]
struct Field {
    accepts: Option<Vec<String>>,
    is_part_of_key: bool,
    default: Option<Value>,
}

impl Field {
    fn of(schema: &Value) -> Self {
        let kinds = |kinds: &Vec<Value>| kinds.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            accepts: schema["x-accepts"].as_array().map(kinds),
            is_part_of_key: schema["x-key"] != false,
            default: schema.get("default").cloned(),
        }
    }
}

impl Kind {
    /// The kind that `S` implements.
    pub fn of<S: Stage>() -> Self {
        let schema = schema_of::<S::Config>();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let fields = properties.map(|(name, schema)| (name.clone(), Field::of(schema))).collect();
        Self {
            name: S::KIND,
            version: S::VERSION,
            summary: S::SUMMARY,
            gives: S::GIVES,
            schema,
            on_device: S::ON_DEVICE,
            fields,
            normalise: |settings, upstream| {
                let mut config: S::Config = typed(S::KIND, settings)?;
                S::normalise(&mut config, upstream);
                S::check(&config)?;
                match serde_json::to_value(&config) {
                    Ok(Value::Object(map)) => Ok(map),
                    Ok(_) => Err(StageError::new(format!("the settings of kind `{}` are not a table", S::KIND))),
                    Err(error) => Err(StageError::new(format!("settings of kind `{}`: {error}", S::KIND))),
                }
            },
            estimate: |settings, inputs| Ok(S::estimate(&typed(S::KIND, settings)?, inputs)),
            run: |settings, inputs, context| S::run(&typed(S::KIND, settings)?, inputs, context),
        }
    }

    /// Typed and back: every default filled in, what cannot matter set to its default.
    pub fn normalise(&self, settings: &Settings, upstream: &Upstream) -> Result<Settings> {
        (self.normalise)(settings, upstream)
    }

    /// See [`Stage::estimate`].
    pub fn estimate(&self, settings: &Settings, inputs: &Expected) -> Result<Estimate> {
        (self.estimate)(settings, inputs)
    }

    /// See [`Stage::run`].
    pub fn run(&self, settings: &Settings, inputs: &Inputs, context: &Context) -> Result<Summary> {
        (self.run)(settings, inputs, context)
    }

    /// Schema of each field, by name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.schema["properties"].as_object().into_iter().flatten().map(|(name, schema)| (name.as_str(), schema))
    }

    /// The artifact kinds that `field` accepts, [`ANY`] for all; `None` when it is no reference. `field.NAME` is an entry
    /// of a table of references.
    pub fn accepts(&self, field: &str) -> Option<Vec<&str>> {
        Some(self.fields.get(head(field))?.accepts.as_ref()?.iter().map(String::as_str).collect())
    }

    /// Whether `field` is a reference, or `field.NAME` an entry of a table of references.
    pub fn is_reference(&self, field: &str) -> bool {
        self.fields.get(head(field)).is_some_and(|field| field.accepts.is_some())
    }

    /// Every reference that stands in `settings` or is a default: (field, text), in a table of references (`field.NAME`,
    /// text).
    pub fn references<'s>(&'s self, settings: &'s Settings) -> Vec<(String, &'s str)> {
        let mut found = Vec::new();
        for (field, known) in self.fields.iter().filter(|(_, known)| known.accepts.is_some()) {
            match settings.get(field).or(known.default.as_ref()) {
                Some(Value::String(text)) => found.push((field.clone(), text.as_str())),
                Some(Value::Object(table)) => found.extend(
                    table.iter().filter_map(|(name, value)| Some((format!("{field}.{name}"), value.as_str()?))),
                ),
                _ => {}
            }
        }
        found
    }

    /// Is `field` a table whose names the file chooses (`inputs`, `values`)? Layers, axes and ablations join such tables
    /// name by name, and `field.NAME` is a target.
    pub fn is_table(&self, field: &str) -> bool {
        let schema = &self.schema["properties"][field];
        schema["additionalProperties"].is_object() && schema.get("properties").is_none()
    }

    /// The schema of `field`, or of the entries of the table when it is `table.NAME`.
    pub fn schema_of(&self, field: &str) -> &Value {
        match field.split_once('.') {
            Some((table, _)) => &self.schema["properties"][table]["additionalProperties"],
            None => &self.schema["properties"][field],
        }
    }

    /// The field in which a file names the artifact kinds that the stage gives, besides [`Kind::gives`].
    pub fn declares_gives(&self) -> Option<&str> {
        self.fields().find(|(_, schema)| schema["x-gives"] == true).map(|(field, _)| field)
    }

    /// Can `field` change the result? Fields that say `#[schemars(extend("x-key" = false))]` cannot, beyond the tolerance
    /// stated for them (the batch size of an evaluation).
    pub fn is_part_of_key(&self, field: &str) -> bool {
        self.fields.get(field).is_none_or(|field| field.is_part_of_key)
    }

    /// The built-in default of `field`; `None` when it must be given.
    pub fn default_of(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)?.default.as_ref()
    }
}

/// The JSON Schema of a settings type, with nothing referred to.
pub fn schema_of<C: JsonSchema>() -> Value {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<C>()
        .to_value();
    let Some(object) = schema.as_object_mut() else { return schema };
    // A type that takes others in (`flatten`) has all their fields among its own, so the plainer word says the same.
    if let Some(denied) = object.remove("unevaluatedProperties") {
        object.insert("additionalProperties".to_owned(), denied);
    }
    // It also has their description where they stand; the order is to be that of a type that takes none in.
    for last in ["description", "title", "$schema"] {
        if let Some(value) = object.shift_remove(last) {
            object.insert(last.to_owned(), value);
        }
    }
    schema
}

/// `inputs` of `inputs.NAME`.
fn head(field: &str) -> &str {
    field.split_once('.').map_or(field, |(table, _)| table)
}

fn typed<C: DeserializeOwned>(kind: &str, settings: &Settings) -> Result<C> {
    C::deserialize(settings).map_err(|error| StageError::new(format!("settings of kind `{kind}`: {error}")))
}
