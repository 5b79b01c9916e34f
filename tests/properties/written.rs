//! Experiments made at random, and the many ways to write the same one in TOML.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use soctok::stages::{Context, Inputs, Kind, Reference, Result, Stage, Summary};

/// A stage with a setting of every type.
struct Plain;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlainConfig {
    #[serde(default = "half")]
    number: f64,
    #[serde(default)]
    count: u64,
    #[serde(default)]
    text: String,
    #[serde(default)]
    list: Vec<f64>,
    #[serde(default)]
    table: BTreeMap<String, i64>,
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["plain"]))]
    from: Option<Reference>,
}

const HALF: f64 = 0.5;

fn half() -> f64 {
    HALF
}

impl Stage for Plain {
    const KIND: &'static str = "plain";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "For tests";
    const GIVES: &'static [&'static str] = &["plain"];
    type Config = PlainConfig;

    fn run(_: &PlainConfig, _: &Inputs, _: &Context) -> Result<Summary> {
        Ok(Summary::new())
    }
}

/// A stage whose settings are set or not.
struct Layered;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LayeredConfig {
    #[serde(default)]
    f0: Option<u32>,
    #[serde(default)]
    f1: Option<Vec<u32>>,
    #[serde(default)]
    f2: Option<u32>,
    #[serde(default)]
    f3: Option<Vec<u32>>,
    #[serde(default)]
    f4: Option<u32>,
    #[serde(default)]
    f5: Option<Vec<u32>>,
}

impl Stage for Layered {
    const KIND: &'static str = "layered";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "For tests";
    const GIVES: &'static [&'static str] = &["layered"];
    type Config = LayeredConfig;

    fn run(_: &LayeredConfig, _: &Inputs, _: &Context) -> Result<Summary> {
        Ok(Summary::new())
    }
}

/// `plain` and `layered`.
pub fn kinds() -> Vec<Kind> {
    vec![Kind::of::<Plain>(), Kind::of::<Layered>()]
}

/// An experiment before it is written.
#[derive(Clone, Debug)]
pub struct Made {
    stages: Vec<MadeStage>,
    /// (stage, the values of its `count`).
    axes: Vec<(usize, BTreeSet<u64>)>,
    /// (stage, the value of its `number`).
    ablations: Vec<(usize, f64)>,
}

#[derive(Clone, Debug)]
struct MadeStage {
    number: Option<f64>,
    count: Option<u64>,
    text: Option<String>,
    list: Option<Vec<f64>>,
    table: Option<BTreeMap<String, i64>>,
    /// How many places before it the stage stands that it needs.
    from: usize,
}

/// Any experiment of up to five stages, two axes and two ablations.
pub fn made() -> impl Strategy<Value = Made> {
    let number = || {
        prop_oneof![Just(-0.0), Just(0.0), Just(HALF), Just(1.0), any::<f64>().prop_filter("finite", |x| x.is_finite())]
    };
    let stage = (
        prop::option::of(number()),
        prop::option::of(0..1000u64),
        prop::option::of(any::<String>()),
        prop::option::of(prop::collection::vec(number(), 0..4)),
        prop::option::of(prop::collection::btree_map(any::<String>(), any::<i64>(), 0..4)),
        0..4usize,
    );
    let stage =
        stage.prop_map(|(number, count, text, list, table, from)| MadeStage { number, count, text, list, table, from });
    let axis = (any::<prop::sample::Index>(), prop::collection::btree_set(0..1000u64, 1..4));
    let ablation = (any::<prop::sample::Index>(), number());
    let all =
        (prop::collection::vec(stage, 1..6), prop::collection::vec(axis, 0..3), prop::collection::vec(ablation, 0..3));
    all.prop_map(|(stages, axes, ablations)| {
        let count = stages.len();
        let mut bound = BTreeSet::new();
        let axes = axes.into_iter().map(|(stage, values)| (stage.index(count), values));
        let axes = axes.filter(|(stage, _)| bound.insert(*stage)).collect();
        let ablations = ablations.into_iter().map(|(stage, number)| (stage.index(count), number)).collect();
        Made { stages, axes, ablations }
    })
}

/// How an experiment is written: every choice is drawn from a seed.
#[derive(Clone, Debug)]
pub struct Style(std::cell::Cell<u64>);

impl Style {
    /// The choices of this seed.
    pub fn new(seed: u64) -> Self {
        Self(std::cell::Cell::new(seed))
    }

    /// One of `choices`, by SplitMix64.
    fn choose(&self, choices: usize) -> usize {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % choices
    }

    fn shuffled<T>(&self, mut things: Vec<T>) -> Vec<T> {
        for last in (1..things.len()).rev() {
            things.swap(last, self.choose(last + 1));
        }
        things
    }

    fn one(&self, mut forms: Vec<String>) -> String {
        forms.swap_remove(self.choose(forms.len()))
    }

    fn text(&self, text: &str) -> String {
        forms::text(text, self.choose(4))
    }

    /// A bare key in one of its forms.
    fn key(&self, key: &str) -> String {
        match self.choose(3) {
            0 => format!("\"{key}\""),
            1 => format!("'{key}'"),
            _ => key.to_owned(),
        }
    }

    fn space(&self) -> &'static str {
        ["", " ", "\t", "  "][self.choose(4)]
    }

    fn remark(&self) -> &'static str {
        ["", "", " # why", "\n", "\n# [stages.s0]\n"][self.choose(5)]
    }

    fn line(&self, key: &str, value: &str) -> String {
        format!("{}{key}{}={}{value}{}\n", self.space(), self.space(), self.space(), self.remark())
    }

    fn inline(&self, fields: &[(String, String)]) -> String {
        let fields: Vec<String> =
            self.shuffled(fields.to_vec()).iter().map(|(key, value)| format!("{key} = {value}")).collect();
        format!("{{ {} }}", fields.join(", "))
    }

    /// A section in one of five ways: what stands before every header, and what stands under its own.
    fn section(&self, name: &str, entries: Vec<(String, Vec<(String, String)>)>) -> (String, String) {
        let (mut before, mut under) = (String::new(), String::new());
        let entries = self.shuffled(entries);
        let whole: Vec<(String, String)> =
            entries.iter().map(|(key, fields)| (key.clone(), self.inline(fields))).collect();
        match self.choose(5) {
            0 => {
                for (key, fields) in entries {
                    under += &format!("[{}{name} . {}]{}\n", self.space(), self.key(&key), self.remark());
                    under.extend(self.shuffled(fields).iter().map(|(field, value)| self.line(&self.key(field), value)));
                }
            }
            1 => {
                under += &format!("[{name}]\n");
                under.extend(whole.iter().map(|(key, value)| self.line(&self.key(key), value)));
            }
            2 => {
                under += &format!("[{}]\n", self.key(name));
                for (key, fields) in entries {
                    let lines = self.shuffled(fields);
                    under.extend(lines.iter().map(|(field, value)| self.line(&format!("{key}.{field}"), value)));
                }
            }
            3 => before += &self.line(name, &self.inline(&whole)),
            _ => {
                for (key, fields) in entries {
                    let lines = self.shuffled(fields);
                    before
                        .extend(lines.iter().map(|(field, value)| self.line(&format!("{name}.{key}.{field}"), value)));
                }
            }
        }
        (before, under)
    }
}

impl Arbitrary for Style {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with(_: ()) -> Self::Strategy {
        any::<u64>().prop_map(Self::new).boxed()
    }
}

impl Made {
    /// One with something of everything.
    pub fn example() -> Self {
        let stage = |from| MadeStage {
            number: Some(1.0),
            count: Some(10),
            text: Some("two\nlines".into()),
            list: Some(vec![0.25]),
            table: Some(BTreeMap::from([("a b".into(), -1)])),
            from,
        };
        Self { stages: vec![stage(0), stage(1)], axes: vec![(0, BTreeSet::from([1, 2]))], ablations: vec![(1, 2.0)] }
    }

    /// The file, in a way of writing.
    pub fn toml(&self, style: &Style) -> String {
        let float = |number: f64| style.one(forms::float(number));
        let stage = |(place, stage): (usize, &MadeStage)| {
            let mut fields = vec![("kind".to_owned(), style.text("plain"))];
            let mut add =
                |field: &str, value: Option<String>| fields.extend(value.map(|value| (field.to_owned(), value)));
            add("number", stage.number.map(float));
            add("count", stage.count.map(|count| style.one(forms::count(count))));
            add("text", stage.text.as_ref().map(|text| style.text(text)));
            let list = |list: &Vec<f64>| format!("[{}]", list.iter().map(|x| float(*x)).collect::<Vec<_>>().join(", "));
            add("list", stage.list.as_ref().map(list));
            let table = |table: &BTreeMap<String, i64>| {
                let entries = table.iter().map(|(key, value)| (forms::text(key, style.choose(2)), value.to_string()));
                style.inline(&entries.collect::<Vec<_>>())
            };
            add("table", stage.table.as_ref().map(table));
            let from = (1..=place).contains(&stage.from).then(|| style.text(&format!("stage:s{}", place - stage.from)));
            add("from", from);
            (format!("s{place}"), fields)
        };
        let axis = |(place, (stage, values)): (usize, &(usize, BTreeSet<u64>))| {
            let to = style.text(&format!("s{stage}.count"));
            let to = if style.choose(2) == 0 { to } else { format!("[{to}]") };
            let values: Vec<String> = values.iter().map(|value| style.one(forms::count(*value))).collect();
            (
                format!("x{place}"),
                vec![("to".to_owned(), to), ("values".to_owned(), format!("[{}]", values.join(", ")))],
            )
        };
        let ablation = |(place, (stage, number)): (usize, &(usize, f64))| {
            let number = float(*number);
            let set = match style.choose(2) {
                0 => format!("{{ \"s{stage}.number\" = {number} }}"),
                _ => format!("{{ s{stage}.number = {number} }}"),
            };
            (format!("b{place}"), vec![("set".to_owned(), set)])
        };
        let sections = [
            style.section("stages", self.stages.iter().enumerate().map(stage).collect()),
            style.section("axes", self.axes.iter().enumerate().map(axis).collect()),
            style.section("ablations", self.ablations.iter().enumerate().map(ablation).collect()),
        ];
        let (mut before, mut under): (Vec<String>, Vec<String>) = sections.into_iter().unzip();
        before.push(style.line(&style.key("name"), &style.text("made")));
        (before, under) = (style.shuffled(before), style.shuffled(under));
        before.concat() + &under.concat()
    }

    /// How many points it has.
    pub fn points(&self) -> usize {
        self.axes.iter().map(|(_, values)| values.len()).product::<usize>() * (1 + self.ablations.len())
    }

    /// How many of them differ in a setting of some stage.
    pub fn distinct(&self) -> usize {
        let mut counts: Vec<Vec<u64>> = vec![self.stages.iter().map(|stage| stage.count.unwrap_or(0)).collect()];
        for (stage, values) in &self.axes {
            let with = |counts: &Vec<u64>, value: u64| {
                let mut counts = counts.clone();
                counts[*stage] = value;
                counts
            };
            counts = counts.iter().flat_map(|known| values.iter().map(|value| with(known, *value))).collect();
        }
        // Both zeros are one number, so numbers are compared as bits after adding 0.
        let base: Vec<f64> = self.stages.iter().map(|stage| stage.number.unwrap_or(HALF)).collect();
        let ablated = self.ablations.iter().map(|(stage, number)| {
            let mut numbers = base.clone();
            numbers[*stage] = *number;
            numbers
        });
        let bits = |numbers: Vec<f64>| numbers.into_iter().map(|number| (number + 0.0).to_bits()).collect();
        let numbers: BTreeSet<Vec<u64>> = ablated.chain([base.clone()]).map(bits).collect();
        counts.into_iter().collect::<BTreeSet<_>>().len() * numbers.len()
    }
}

/// Forms of one value.
pub mod forms {
    /// Ways to write a finite number where a number with a point is asked for.
    pub fn float(number: f64) -> Vec<String> {
        let scientific = format!("{number:e}");
        let (mantissa, exponent) = scientific.split_once('e').expect("it has an exponent");
        let exponent: i32 = exponent.parse().expect("it is a number");
        let decimals = mantissa.split_once('.').map_or(0, |(_, after)| after.len() as i32);
        let digits = mantissa.replace('.', "");
        let plain = format!("{number:?}");
        let mut forms = vec![
            plain.clone(),
            scientific.clone(),
            scientific.to_uppercase(),
            format!("{digits}e{}", exponent - decimals),
            format!("{mantissa}E{exponent:+}"),
        ];
        if number != 0.0 {
            forms.push(format!("{digits}0e{}", exponent - decimals - 1));
        }
        if plain.contains('.') && !plain.contains('e') {
            forms.push(format!("{plain}00"));
            forms.push(format!("{plain}e0"));
            forms.push(format!("{plain}_0"));
        }
        if number.fract() == 0.0 && number.abs() < 2f64.powi(53) {
            forms.push((number as i64).to_string());
        }
        if number.is_sign_positive() {
            forms.push(format!("+{plain}"));
        }
        forms
    }

    /// Ways to write a whole number.
    pub fn count(number: u64) -> Vec<String> {
        let decimal = number.to_string();
        let (first, rest) = decimal.split_at(1);
        let split = if rest.is_empty() { decimal.clone() } else { format!("{first}_{rest}") };
        vec![
            split,
            format!("+{number}"),
            format!("{number:#x}"),
            format!("{number:#o}"),
            format!("{number:#b}"),
            decimal,
        ]
    }

    /// A text as TOML writes it: escaped, as it is, in single quotes, or over several lines, where that can be.
    pub fn text(text: &str, form: usize) -> String {
        let is_control = |c: char| c.is_control() && c != '\t';
        let escape = |all: bool| -> String {
            text.chars()
                .map(|c| match c {
                    '"' => "\\\"".to_owned(),
                    '\\' => "\\\\".to_owned(),
                    c if is_control(c) || all && !c.is_ascii() => format!("\\U{:08x}", c as u32),
                    c => c.to_string(),
                })
                .collect()
        };
        match form {
            1 => format!("\"{}\"", escape(true)),
            2 if !text.contains('\'') && !text.contains(is_control) => format!("'{text}'"),
            3 => format!("\"\"\"\n{}\"\"\"", escape(false)),
            _ => format!("\"{}\"", escape(false)),
        }
    }
}
