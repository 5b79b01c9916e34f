//! Properties of keys and of the resolver, on experiments made at random: what is cosmetic moves no key, what is not
//! moves one, layers lie above each other in their order, and nothing that is put in makes soctok panic.

mod written;

#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use soctok::experiment::{Experiment, LoadOptions, load, show};
use soctok::plan::{Reading, key, plan};
use soctok::stages::Kind;
use soctok::store::Store;
use support::Folder;
use written::{Made, Style, forms, kinds, made};

fn read(folder: &Folder, text: &str) -> Experiment {
    let path = folder.write("x.toml", text);
    load(&path, &LoadOptions::default(), &kinds()).unwrap_or_else(|found| panic!("{found}\n\n{text}"))
}

/// (coordinates, ablation) → run hash.
fn runs(experiment: &Experiment, kinds: &[Kind]) -> BTreeMap<(BTreeMap<String, String>, Option<String>), String> {
    let store = Store::open("there-is-no-store");
    let plan = plan(experiment, kinds, &store, Reading::AtMost(0)).expect("nothing comes from outside");
    let run = |planned: &soctok::plan::PlannedPoint<'_>| {
        let place = (BTreeMap::clone(&planned.point.coordinates), planned.point.ablation.clone());
        (place, planned.run.clone().expect("nothing is pending"))
    };
    plan.points.iter().map(run).collect()
}

/// Any JSON value with finite numbers.
fn value() -> impl Strategy<Value = Value> {
    let number = any::<f64>().prop_filter_map("finite", |x| serde_json::Number::from_f64(x).map(Value::Number));
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        number,
        Just(json!(-0.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same value with the keys of every object in another order.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().rev().map(|(key, value)| (key.clone(), reversed(value))).collect())
        }
        Value::Array(values) => values.iter().map(reversed).collect(),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn equal_values_have_one_canonical_form(one in value(), other in value()) {
        let text = key::canonical(&one);
        prop_assert_eq!(&text, &key::canonical(&reversed(&one)));
        let back: Value = serde_json::from_str(&text).expect("it is JSON");
        prop_assert_eq!(&back, &one, "it says all of the value");
        prop_assert_eq!(key::canonical(&back), text, "and is its own canonical form");
        prop_assert_eq!(one == other, key::canonical(&one) == key::canonical(&other));
        prop_assert_eq!(one == other, key::digest(&key::canonical(&one)) == key::digest(&key::canonical(&other)));
    }

    #[test]
    fn every_form_of_a_number_is_the_same_key(number in any::<f64>(), count in any::<i64>()) {
        prop_assume!(number.is_finite());
        let count = count.unsigned_abs() >> 1;
        let folder = Folder::new();
        let mut keys = BTreeSet::new();
        for (number, count) in forms::float(number).iter().zip(forms::count(count).iter().cycle()) {
            let text = format!(
                "name = \"x\"\n[stages.a]\nkind = \"plain\"\nnumber = {number}\nlist = [{number}]\ncount = {count}\n"
            );
            keys.extend(runs(&read(&folder, &text), &kinds()).into_values());
        }
        prop_assert_eq!(keys.len(), 1);
    }

    #[test]
    fn texts_are_told_apart_unless_they_are_equal(one in any::<String>(), other in any::<String>()) {
        let folder = Folder::new();
        let run = |text: &str| {
            let text = forms::text(text, 0);
            let file = format!("name = \"x\"\n[stages.a]\nkind = \"plain\"\ntext = {text}\n");
            runs(&read(&folder, &file), &kinds()).into_values().next().expect("one point")
        };
        prop_assert_eq!(one == other, run(&one) == run(&other));
        prop_assert_ne!(run(&format!("{one}\u{e9}")), run(&format!("{one}e\u{301}")), "normal forms are not merged");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn cosmetic_edits_move_no_run(made in made(), style in any::<Style>(), other in any::<Style>()) {
        let (folder, kinds) = (Folder::new(), kinds());
        let (one, two) = (made.toml(&style), made.toml(&other));
        let (first, second) = (read(&folder, &one), read(&folder, &two));
        let found = runs(&first, &kinds);
        prop_assert_eq!(&found, &runs(&second, &kinds), "\n{}\n\n{}", one, two);
        prop_assert_eq!(first.points.len(), made.points(), "\n{}", one);
        let distinct: BTreeSet<&String> = found.values().collect();
        prop_assert_eq!(distinct.len(), made.distinct(), "\n{}", one);
        // What is shown is one more cosmetic edit.
        let shown = show(&folder.write("x.toml", &one), &LoadOptions::default(), &kinds).expect("it loads").toml;
        prop_assert_eq!(found, runs(&read(&folder, &shown), &kinds), "\n{}\n\n{}", one, shown);
    }

    #[test]
    fn the_last_layer_wins(
        layers in prop::collection::vec(prop::collection::btree_map(0..6usize, 0..100u32, 0..5), 1..8),
        sets in prop::collection::btree_map(0..6usize, 0..100u32, 0..3),
        environment in prop::collection::btree_map(0..6usize, 0..100u32, 0..3),
    ) {
        // Of six fields the odd ones are lists of one, two or three values: a list is replaced as a whole.
        let field = |place: usize| format!("f{place}");
        let written = |place: usize, value: u32| match place % 2 {
            0 => value.to_string(),
            _ => format!("[{}]", vec![value.to_string(); 1 + value as usize % 3].join(", ")),
        };
        let folder = Folder::new();
        for (number, layer) in layers.iter().enumerate() {
            let mut text = match number {
                0 => "name = \"x\"\n".to_owned(),
                _ => format!("extends = \"{}.toml\"\n", number - 1),
            };
            text += "[stages.a]\nkind = \"layered\"\n";
            text.extend(layer.iter().map(|(place, value)| format!("{} = {}\n", field(*place), written(*place, *value))));
            folder.write(&format!("{number}.toml"), &text);
        }
        let set = |(place, value): (&usize, &u32)| format!("a.{}={}", field(*place), written(*place, *value));
        let variable = |(place, value): (&usize, &u32)| {
            (format!("SOCTOK_STAGES__A__{}", field(*place).to_uppercase()), written(*place, *value))
        };
        let options = LoadOptions {
            sets: sets.iter().map(set).collect(),
            environment: environment.iter().map(variable).collect(),
            profile: None,
        };
        let path = folder.path().join(format!("{}.toml", layers.len() - 1));
        let experiment = load(&path, &options, &kinds()).unwrap_or_else(|found| panic!("{found}"));
        let settings = &experiment.points[0].stages["a"].settings;
        for place in 0..6 {
            let wins = layers.iter().chain([&environment, &sets]).rev().find_map(|layer| layer.get(&place));
            let expected = wins.map_or(Value::Null, |value| serde_json::from_str(&written(place, *value)).expect("JSON"));
            prop_assert_eq!(&settings[&field(place)], &expected);
        }
    }

    #[test]
    fn axes_multiply_and_their_order_makes_no_step(sizes in prop::collection::vec(1..5usize, 0..5), turn in 0..5usize) {
        let (folder, kinds) = (Folder::new(), kinds());
        let file = |order: &[usize]| {
            let mut text = "name = \"x\"\n".to_owned();
            for (place, size) in sizes.iter().enumerate() {
                text += &format!("[stages.s{place}]\nkind = \"plain\"\n");
                text += &(if place == 0 { String::new() } else { format!("from = \"stage:s{}\"\n", place - 1) });
                assert!(*size > 0);
            }
            for &place in order {
                let values: Vec<String> = (0..sizes[place]).map(|value| value.to_string()).collect();
                text += &format!("[axes.x{place}]\nto = \"s{place}.count\"\nvalues = [{}]\n", values.join(", "));
            }
            if sizes.is_empty() { text + "[stages.s]\nkind = \"plain\"\n" } else { text }
        };
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        let first = read(&folder, &file(&order));
        prop_assert_eq!(first.points.len(), sizes.iter().product::<usize>());
        let found = runs(&first, &kinds);
        prop_assert_eq!(found.values().collect::<BTreeSet<_>>().len(), first.points.len());
        order.rotate_left(if sizes.is_empty() { 0 } else { turn % sizes.len() });
        prop_assert_eq!(found, runs(&read(&folder, &file(&order)), &kinds));
        // A stage is as many steps as there are values of the axes of it and of all above it.
        let store = Store::open("there-is-no-store");
        let steps = plan(&first, &kinds, &store, Reading::AtMost(0)).expect("nothing comes from outside").steps.len();
        let products = sizes.iter().scan(1, |product, size| { *product *= size; Some(*product) });
        prop_assert_eq!(steps, products.sum::<usize>().max(1));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), lines in prop::collection::vec(line(), 0..24)) {
        let folder = Folder::new();
        for text in [text.clone(), lines.join("\n"), format!("{}\n{text}", lines.join("\n"))] {
            let path = folder.write("x.toml", &text);
            drop(load(&path, &LoadOptions::default(), &kinds()).map_err(|found| found.to_string()));
        }
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_parser_panic(
        made in made(),
        style in any::<Style>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..8),
    ) {
        let mut bytes = made.toml(&style).into_bytes();
        for (place, what, byte) in damage {
            let place = place.index(bytes.len());
            match what {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                2 => bytes.truncate(place.max(1)),
                _ => bytes.extend_from_within(place..),
            }
        }
        let folder = Folder::new();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, bytes).expect("writes");
        drop(load(&path, &LoadOptions::default(), &kinds()).map_err(|found| found.to_string()));
    }

    #[test]
    fn no_setting_from_outside_makes_the_layers_panic(
        sets in prop::collection::vec("(a\\.|run\\.|axes\\.|\"|'|\\.|=|\\[|[a-z]|\u{e9}){0,12}", 0..4),
        profile in prop::option::of("[a-z]{0,3}"),
        name in "[A-Z_]{0,12}",
        value in any::<String>(),
    ) {
        let folder = Folder::new();
        let path = folder.write("x.toml", "name = \"x\"\n[stages.a]\nkind = \"plain\"\n[profiles.p]\n");
        let options = LoadOptions { sets, profile, environment: vec![(format!("SOCTOK_{name}"), value)] };
        drop(load(&path, &options, &kinds()).map_err(|found| found.to_string()));
    }
}

/// A line that could stand in an experiment file.
fn line() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "name",
        "extends",
        "stages",
        "axes",
        "ablations",
        "exclude",
        "tables",
        "comparisons",
        "run",
        "profiles",
        "data",
        "models",
        "values",
        "to",
        "set",
        "where",
        "combine",
        "kind",
        "from",
        "a",
        "plain",
        "\"a.b\"",
        "x",
        "",
        "é",
    ]);
    let literal = prop::sample::select(vec![
        "\"x\"",
        "\"plain\"",
        "\"stage:a\"",
        "\"a.count\"",
        "1",
        "-0.0",
        "1e999",
        "nan",
        "[]",
        "[1, 2]",
        "{}",
        "{ a.count = 1 }",
        "{ x = [1] }",
        "true",
        "1979-05-27",
        "\"x.toml\"",
        "\"\"\"",
        "[[1]]",
        "0x",
        "",
    ]);
    let path = prop::collection::vec(word.clone(), 1..4).prop_map(|words| words.join("."));
    prop_oneof![
        (path.clone(), literal).prop_map(|(path, literal)| format!("{path} = {literal}")),
        path.clone().prop_map(|path| format!("[{path}]")),
        path.prop_map(|path| format!("[[{path}]]")),
    ]
}

#[test]
fn signs_of_zero_are_one_key_and_numbers_that_are_not_finite_are_refused() {
    let folder = Folder::new();
    let file = |number: &str| format!("name = \"x\"\n[stages.a]\nkind = \"plain\"\nnumber = {number}\n");
    let run = |number: &str| runs(&read(&folder, &file(number)), &kinds()).into_values().next().expect("one point");
    assert!(["-0.0", "-0", "+0.0", "-0e5", "-1e-400"].iter().all(|zero| run(zero) == run("0.0")));
    assert_eq!(key::canonical(&json!(-0.0)), "0.0");
    for number in ["nan", "inf", "-inf", "1e999"] {
        let path = folder.write("x.toml", &file(number));
        let found = load(&path, &LoadOptions::default(), &kinds()).expect_err("it is refused");
        assert!(found.to_string().contains("is not a finite number"), "{found}");
    }
}

#[test]
fn two_hundred_files_extend_each_other_and_a_circle_of_them_is_told() {
    for length in [1, 2, 50, 200] {
        let folder = Folder::new();
        for number in 0..length {
            let extends = if number == 0 { String::new() } else { format!("extends = \"{}.toml\"\n", number - 1) };
            let own = format!("[stages.a]\nkind = \"plain\"\ncount = {number}\n[stages.s{number}]\nkind = \"plain\"\n");
            folder.write(&format!("{number}.toml"), &format!("{extends}name = \"n{number}\"\n{own}"));
        }
        let last = folder.path().join(format!("{}.toml", length - 1));
        let experiment = load(&last, &LoadOptions::default(), &kinds()).unwrap_or_else(|found| panic!("{found}"));
        assert_eq!(experiment.name, format!("n{}", length - 1));
        let stages = &experiment.points[0].stages;
        assert_eq!((stages.len(), &stages["a"].settings["count"]), (length + 1, &json!(length - 1)));
        // The lowest file is put above the highest.
        folder.write("0.toml", &format!("extends = \"{}.toml\"\n", length - 1));
        let found = load(&last, &LoadOptions::default(), &kinds()).expect_err("it is a circle").to_string();
        assert!(found.contains("extends itself"), "{found}");
    }
}

#[test]
fn more_points_than_memory_holds_are_refused_before_they_are_made() {
    let folder = Folder::new();
    let values: Vec<String> = (0..100).map(|value| value.to_string()).collect();
    let mut text = "name = \"x\"\n[stages.a]\nkind = \"layered\"\n".to_owned();
    for axis in [0, 2, 4] {
        text += &format!("[axes.x{axis}]\nto = \"a.f{axis}\"\nvalues = [{}]\n", values.join(", "));
    }
    let found = load(&folder.write("x.toml", &text), &LoadOptions::default(), &kinds()).expect_err("too many");
    assert!(found.to_string().contains("more than 100000 points: 100 `x0` × 100 `x2` × 100 `x4`"), "{found}");
}

#[test]
fn a_long_chain_of_stages_does_not_overflow_the_stack() {
    let mut text = "name = \"x\"\n".to_owned();
    for place in 0..2000 {
        let from = if place == 0 { String::new() } else { format!("from = \"stage:s{}\"\n", place - 1) };
        text += &format!("[stages.s{place}]\nkind = \"plain\"\n{from}");
    }
    assert_eq!(runs(&read(&Folder::new(), &text), &kinds()).len(), 1);
}

#[test]
fn the_binary_gives_equal_plans_for_cosmetic_edits_and_refuses_rubbish_with_its_exit_code() {
    let folder = Folder::new();
    folder.write("x.toml", support::NOTES);
    let keys = || {
        let plan = folder.json(&["plan", "x.toml"]);
        let mut keys: Vec<String> =
            plan["steps"].as_array().expect("a list").iter().map(|step| step["key"].to_string()).collect();
        keys.sort();
        keys
    };
    let before = keys();
    assert_eq!(before.len(), 3);
    let edited = "axes = { ending = { values = ['two', \"th\\u0072ee\"], to = 'second.text' } } # moved up\n\
                  name = \"notes\"\n[stages]\nsecond.after = \"stage:first\"\nsecond.text = '''two'''\n\
                  second.kind = \"note\"\nfirst = { text = \"one\", kind = \"note\" }\n";
    folder.write("x.toml", edited);
    assert_eq!(keys(), before);
    for rubbish in ["\u{0}", "[[[[", "name = ", &"a.".repeat(5000), &"[".repeat(5000), &"nan = nan\n".repeat(5000)] {
        folder.write("x.toml", rubbish);
        let output = folder.soctok(&["check", "x.toml"]);
        assert_eq!(output.status.code(), Some(2), "{}", support::text(&output.stderr));
    }
}

/// The model of an experiment and the ways to write it agree on what it is; see [`Made::toml`].
#[test]
fn made_experiments_are_written_in_many_ways() {
    let made = Made::example();
    let texts: BTreeSet<String> = (0..8).map(|seed| made.toml(&Style::new(seed))).collect();
    assert!(texts.len() > 6, "{texts:?}");
}
