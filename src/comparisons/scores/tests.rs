use super::*;

struct Arms {
    folder: tempfile::TempDir,
    arms: Vec<Arm>,
}

impl Arms {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), arms: Vec::new() }
    }

    /// Twenty clips of two words; `nll` by clip and word, in bits.
    fn add(&mut self, coordinates: &[(&str, &str)], bits: impl Fn(usize, usize) -> f64) {
        let artifact = self.folder.path().join(self.arms.len().to_string());
        std::fs::create_dir(&artifact).unwrap();
        let mut text = String::from("clip_id,group,utterance,target,word,token,piece,class,nll\n");
        for clip in 0..20 {
            for word in 0..2 {
                let nll = bits(clip, word) * std::f64::consts::LN_2;
                text += &format!("c{clip},g{},0,{word},{word},7,x,content,{nll}\n", clip / 2);
            }
        }
        std::fs::write(artifact.join("targets.csv"), text).unwrap();
        let coordinates = coordinates.iter().map(|(axis, label)| ((*axis).into(), (*label).into())).collect();
        self.arms.push(Arm { coordinates, artifact });
    }

    /// As [`Arms::add`], with the tokens of wrong clips.
    fn add_wrong(&mut self, coordinates: &[(&str, &str)], bits: impl Fn(usize, usize) -> f64) {
        self.add(coordinates, bits);
        let artifact = &self.arms.last().expect("just added").artifact;
        std::fs::write(artifact.join("pairing.csv"), "clip_id,vectors_of\nc0,c1\n").unwrap();
    }

    fn compare(&self, settings: serde_json::Value) -> Result<Vec<Row>> {
        let config: Config = serde_json::from_value(settings).unwrap();
        let rows = Scores::run(&config, "nll", &self.arms, &Context::plain(self.folder.path(), "cpu"))?;
        for name in rows.iter().flat_map(|row| row.figures.keys()) {
            assert!(Scores::FIGURES.contains(&name.as_str()), "`{name}` is not among the figures that files may name");
        }
        Ok(rows)
    }
}

fn figure(row: &Row, name: &str) -> f64 {
    row.figures[name].as_f64().unwrap_or_else(|| panic!("no `{name}`"))
}

#[test]
fn differences_are_paired_and_averaged_over_seeds() {
    let mut arms = Arms::new();
    for (inject, gain) in [("global", 1.0), ("full", 0.0)] {
        for seed in ["0", "1"] {
            let extra = if seed == "1" { 0.5 } else { 0.0 };
            arms.add(&[("inject", inject), ("seed", seed), ("ablation", "base")], |clip, word| (clip + word) as f64);
            arms.add(&[("inject", inject), ("seed", seed), ("ablation", "constant")], |clip, word| {
                (clip + word) as f64 + if gain > 0.0 { gain + extra } else { ((clip % 2) as f64 - 0.5) * 0.1 }
            });
        }
    }
    // A base without a partner makes no row.
    arms.add(&[("inject", "none"), ("seed", "0"), ("ablation", "base")], |_, _| 1.0);
    let settings = serde_json::json!({"minuend": {"ablation": "constant"}, "subtrahend": {"ablation": ["base"]},
        "pair_by": ["inject", "seed", "target"], "margin": 0.1, "replicates": 2000});
    let rows = arms.compare(settings.clone()).unwrap();
    assert_eq!(rows.iter().map(|row| row.coordinates["inject"].as_str()).collect::<Vec<_>>(), ["full", "global"]);
    let global = &rows[1];
    assert!((figure(global, "difference") - 1.25).abs() < 1e-9 && (figure(global, "low") - 1.25).abs() < 1e-9);
    assert!((figure(global, "difference_per_caption") - 2.5).abs() < 1e-9);
    assert!((figure(global, "seed_deviation") - 0.5 / 2f64.sqrt()).abs() < 1e-9);
    assert!((figure(global, "p_value") - 2.0 / 2001.0).abs() < 1e-9);
    assert!((figure(global, "p_adjusted") - 4.0 / 2001.0).abs() < 1e-9);
    assert_eq!((figure(global, "pairs"), figure(global, "clusters"), figure(global, "seeds")), (40.0, 20.0, 2.0));
    assert_eq!(global.figures["equivalent"], false);
    let full = &rows[0];
    assert!(figure(full, "difference").abs() < 1e-9 && figure(full, "p_value") > 0.5);
    assert_eq!(full.figures["equivalent"], true);
    // By default what neither side names is paired; groups of two opposite clips leave no spread.
    let mut grouped = settings;
    grouped["pair_by"] = serde_json::json!([]);
    grouped["cluster"] = "session".into();
    let rows = arms.compare(grouped).unwrap();
    assert_eq!(figure(&rows[0], "clusters"), 10.0);
    assert!((figure(&rows[0], "high") - figure(&rows[0], "low")).abs() < 1e-9);
}

#[test]
fn what_cannot_be_paired_says_so() {
    let mut arms = Arms::new();
    for seed in ["0", "1"] {
        arms.add(&[("inject", "none"), ("seed", seed), ("ablation", "base")], |_, _| 1.0);
        arms.add(&[("inject", "full"), ("seed", seed), ("ablation", "base")], |_, _| 2.0);
    }
    let settings = |by: &[&str], second: &str| serde_json::json!({"minuend": {"inject": "none"}, "subtrahend": {"inject": second}, "pair_by": by, "replicates": 100});
    assert!(arms.compare(settings(&["target"], "full")).unwrap_err().to_string().contains("pair alike"));
    assert!(arms.compare(settings(&["sed"], "full")).unwrap_err().to_string().contains("`sed`"));
    assert!(arms.compare(settings(&["seed"], "local")).unwrap_err().to_string().contains("has a partner"));
    assert_eq!(arms.compare(settings(&["seed"], "full")).unwrap()[0].figures["difference"], -1.0);
    let text = "clip_id,group,utterance,target,word,token,piece,class,nll\nc0,g,0,0,0,7,x,content,1\n";
    std::fs::write(arms.arms[1].artifact.join("targets.csv"), text).unwrap();
    let error = arms.compare(settings(&["seed"], "full")).unwrap_err().to_string();
    assert!(error.contains("other targets") && error.contains("hint:"), "{error}");
}

/// The difference of a clip's word that the reference numbers are made of.
fn uneven(clip: usize, word: usize) -> f64 {
    0.03 * ((7 * clip + 3 * word) % 11) as f64 - 0.14 + 0.02 * word as f64
}

#[test]
fn intervals_and_tests_are_those_of_numpy() {
    // numpy 2.4: d = [[0.03*((7*c+3*w)%11)-0.14+0.02*w for w in range(2)] for c in range(20)]; two million resamples of
    // the 20 clips (or of ten groups of two); np.percentile of sum(d)/40 at 2.5, 97.5, 5, 95, and shares beyond bounds.
    let mut arms = Arms::new();
    arms.add(&[("ablation", "constant")], |clip, word| 1.0 + uneven(clip, word));
    arms.add(&[("ablation", "base")], |_, _| 1.0);
    let mut settings = serde_json::json!({"minuend": {"ablation": "constant"}, "subtrahend": {"ablation": "base"},
        "margin": 0.04, "replicates": 40_000});
    let near = |row: &Row, name: &str, expected: f64, tolerance: f64| {
        let found = figure(row, name);
        assert!((found - expected).abs() < tolerance, "{name}: {found} against {expected}");
    };
    let row = &arms.compare(settings.clone()).unwrap()[0];
    near(row, "difference", 0.020_75, 1e-9);
    for (name, expected) in
        [("low", -0.007), ("high", 0.047_75), ("equivalence_low", -0.0025), ("equivalence_high", 0.044)]
    {
        near(row, name, expected, 0.0012);
    }
    near(row, "p_value", 0.140_686, 0.012);
    near(row, "equivalence_p_value", 0.085_849, 0.008);
    assert_eq!(row.figures["equivalent"], false);
    settings["margin"] = 0.05.into();
    let row = &arms.compare(settings.clone()).unwrap()[0];
    near(row, "equivalence_p_value", 0.016_529, 0.004);
    assert_eq!(row.figures["equivalent"], true);
    settings["cluster"] = "group".into();
    let row = &arms.compare(settings).unwrap()[0];
    for (name, expected) in [("low", -0.000_25), ("high", 0.041)] {
        near(row, name, expected, 0.0012);
    }
}

#[test]
fn text_alone_stands_beside_and_wrong_clips_are_only_tested() {
    let mut arms = Arms::new();
    let level = |clip: usize, word: usize| (clip + word) as f64;
    arms.add(&[("inject", "none"), ("ablation", "base")], |clip, word| level(clip, word) + 1.5);
    for inject in ["global", "local"] {
        let gain = if inject == "global" { 1.0 } else { 0.0 };
        for seed in ["0", "1"] {
            let at = |ablation| [("inject", inject), ("seed", seed), ("ablation", ablation)];
            arms.add(&at("base"), move |clip, word| level(clip, word) + 1.0 - gain);
            arms.add(&at("constant"), move |clip, word| level(clip, word) + 1.0);
            arms.add_wrong(&at("wrong_clip"), move |clip, word| level(clip, word) + 9.0);
        }
    }
    let settings = serde_json::json!({"asks": "information", "minuend": {"ablation": "constant"},
        "subtrahend": {"ablation": "base"}, "pair_by": ["inject", "seed"], "margin": 0.02, "replicates": 500,
        "beside": {"inject": "none", "ablation": "base", "seed": "any"}, "wrong": {"ablation": "wrong_clip"}});
    let error = arms.compare(settings.clone()).unwrap_err().to_string();
    assert!(error.contains("no point of `beside`"), "{error}");
    let mut settings = settings;
    arms.arms[0].coordinates.insert("seed".into(), "any".into());
    let rows = arms.compare(settings.clone()).unwrap();
    assert!((figure(&rows[0], "beside") - figure(&rows[0], "minuend") - 0.5).abs() < 1e-9);
    let words: Vec<&str> = rows.iter().filter_map(|row| row.figures["verdict"].as_str()).collect();
    assert_eq!(words, ["gain", "depends_without_information"]);
    assert_eq!((&rows[1].figures["depends"], &rows[1].figures["misleads"]), (&true.into(), &true.into()));
    // An amount of bits under wrong clips is refused, and a test of dependence writes none.
    settings["minuend"] = serde_json::json!({"ablation": "wrong_clip"});
    settings["wrong"] = serde_json::Value::Null;
    let error = arms.compare(settings.clone()).unwrap_err().to_string();
    assert!(error.contains("no amount of information") && error.contains("dependence"), "{error}");
    settings["asks"] = "difference".into();
    assert!(arms.compare(settings.clone()).is_err());
    settings["asks"] = "dependence".into();
    settings["beside"] = serde_json::Value::Null;
    let rows = arms.compare(settings.clone()).unwrap();
    assert_eq!(rows[0].figures["verdict"], "depends");
    let bits = ["difference", "low", "high", "minuend", "subtrahend", "equivalent"];
    assert!(bits.iter().all(|name| rows[0].figures.keys().all(|key| !key.starts_with(name))), "{:?}", rows[0].figures);
    settings["minuend"] = serde_json::json!({"ablation": "constant"});
    let error = arms.compare(settings).unwrap_err().to_string();
    assert!(
        error.contains("at inject = global, seed = 0 has those of its own") && error.contains("`where`"),
        "{error}"
    );
}

#[test]
fn points_in_which_wrong_clips_change_nothing_are_left_out() {
    let mut arms = Arms::new();
    let level = |clip: usize, word: usize| (clip + word) as f64;
    // Text alone has no tokens: its ablations are its base.
    arms.add(&[("inject", "none"), ("ablation", "base")], level);
    for ablation in ["constant", "wrong_clip"] {
        let mut same = arms.arms[0].clone();
        same.coordinates.insert("ablation".into(), ablation.into());
        arms.arms.push(same);
    }
    let settings = serde_json::json!({"asks": "information", "minuend": {"ablation": "constant"},
        "subtrahend": {"ablation": "base"}, "wrong": {"ablation": "wrong_clip"}, "replicates": 100});
    let error = arms.compare(settings.clone()).unwrap_err().to_string();
    assert!(error.contains("wrong clips change nothing at inject = none"), "{error}");
    arms.add(&[("inject", "full"), ("ablation", "base")], level);
    arms.add(&[("inject", "full"), ("ablation", "constant")], move |clip, word| level(clip, word) + 1.0);
    arms.add_wrong(&[("inject", "full"), ("ablation", "wrong_clip")], move |clip, word| level(clip, word) + 2.0);
    let rows = arms.compare(settings).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].coordinates["inject"], "full");
    assert!((figure(&rows[0], "difference") - 1.0).abs() < 1e-9);
    let asks = serde_json::json!({"asks": "dependence", "minuend": {"ablation": "wrong_clip"},
        "subtrahend": {"ablation": "base"}, "replicates": 100});
    let rows = arms.compare(asks).unwrap();
    assert_eq!((rows.len(), &rows[0].figures["verdict"]), (1, &"depends".into()));
}

#[test]
fn many_arms_stand_against_one() {
    let mut arms = Arms::new();
    arms.add(&[("inject", "none"), ("seed", "0"), ("ablation", "base")], |_, _| 1.0);
    arms.add(&[("inject", "none"), ("seed", "1"), ("ablation", "base")], |_, _| 1.0);
    for seed in ["0", "1"] {
        for (inject, ablation, bits) in
            [("global", "constant", 0.9), ("global", "noise", 1.2), ("full", "noise", 1.4), ("full", "base", 0.1)]
        {
            arms.add(&[("inject", inject), ("seed", seed), ("ablation", ablation)], move |_, _| bits);
        }
    }
    let rows = arms
        .compare(serde_json::json!({"minuend": {"inject": "none", "ablation": "base"},
            "subtrahend": {"inject": ["global", "full"], "ablation": ["constant", "noise"]},
            "each": ["inject", "ablation"], "replicates": 100}))
        .unwrap();
    let found: Vec<(&str, &str, f64)> = rows
        .iter()
        .map(|row| (&*row.coordinates["ablation"], &*row.coordinates["inject"], figure(row, "difference")))
        .collect();
    let expected = [("constant", "global", 0.1), ("noise", "full", -0.4), ("noise", "global", -0.2)];
    assert_eq!(found.len(), 3);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.0, found.1), (expected.0, expected.1));
        assert!((found.2 - expected.2).abs() < 1e-9, "{found:?}");
    }
    assert!(rows.iter().all(|row| figure(row, "seeds") == 2.0));
}
