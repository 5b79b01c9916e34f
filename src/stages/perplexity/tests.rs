use super::*;
use crate::social::prompt::Disabled;
use crate::social::samples::Target;

fn sequence(clip: usize, bits: Option<f64>) -> Sequence {
    let target = |number, word, bits| Target {
        position: 1 + number,
        id: 9,
        word: Some(word),
        class: Class::Content,
        number,
        true_bits: bits,
        floor_bits: None,
        bytes: 2,
    };
    let targets = vec![target(0, 0, bits), target(1, 1, bits), target(2, 1, bits.map(|_| 0.0))];
    Sequence { clip, targets, samples: 1, ..Sequence::default() }
}

#[test]
fn figures_are_sums_over_the_same_targets() {
    let nat = std::f32::consts::LN_2;
    let sequences = [sequence(0, Some(1.5)), sequence(1, Some(0.5))];
    let scores = [vec![nat, nat, nat], vec![nat, 2.0 * nat, 3.0 * nat]];
    let summary = summary(&sequences, &scores, 0.0);
    let figure = |name: &str| summary[name].as_f64().unwrap();
    assert!((figure("bits_per_word") - 9.0 / 4.0).abs() < 1e-6);
    assert!((figure("bits_per_caption") - 4.5).abs() < 1e-6);
    assert!((figure("perplexity") - 2f64.powf(1.5)).abs() < 1e-5);
    assert!((figure("true_bits_per_caption") - 2.0).abs() < 1e-12);
    assert_eq!((figure("targets"), figure("words"), figure("captions")), (6.0, 4.0, 2.0));
    assert!(!summary.contains_key("floor_bits_per_caption"));
    assert!((figure("bits_per_byte") - 9.0 / 12.0).abs() < 1e-6);
    assert_eq!((figure("bytes"), figure("samples"), figure("share_content")), (12.0, 2.0, 1.0));
    assert_eq!((figure("share_tag"), figure("bits_eos")), (0.0, 0.0));
    assert_eq!(figure("text_perplexity"), figure("perplexity"));
}

/// The original takes exp(min(20, mean)), so that its largest perplexity is 485165195.4.
#[test]
fn a_capped_perplexity_and_the_shares_of_classes_are_told() {
    let mut marked = sequence(0, None);
    marked.targets[0].class = Class::Tag;
    marked.targets[1].class = Class::Eos;
    let figures = |cap| summary(std::slice::from_ref(&marked), &[vec![1.0, 2.0, 93.0]], cap);
    let figure = |name: &str, cap| figures(cap)[name].as_f64().unwrap();
    assert!((figure("perplexity", 20.0) - 485_165_195.4).abs() < 1.0);
    assert!((figure("perplexity", 0.0).ln() - 32.0).abs() < 1e-9);
    for (name, share) in [("share_tag", 1.0 / 3.0), ("share_eos", 1.0 / 3.0), ("share_content", 1.0 / 3.0)] {
        assert!((figure(name, 0.0) - share).abs() < 1e-12, "{name}");
    }
    assert!((figure("text_perplexity", 0.0).ln() - 93.0).abs() < 1e-9, "neither the tag nor EOS");
}

#[test]
fn the_baseline_of_the_later_original_has_bos_where_its_arms_have_none() {
    let mut upstream = Upstream::default();
    let settings = serde_json::json!({"inject": "full", "bos": false, "disabled": "zeroed"});
    let kind = ("train_projector", settings.as_object().unwrap().clone().into());
    upstream.stages.insert("projector".into(), kind);
    let normal = |inject: &str| {
        let fields = serde_json::json!({"text": "data:t", "packs": "stage:packs", "projector": "stage:p",
            "inject": inject, "none_bos": true});
        let mut config: Config = serde_json::from_value(fields).unwrap();
        Perplexity::normalise(&mut config, &upstream);
        (config.as_text.bos, config.none_bos, config.reading.disabled)
    };
    assert_eq!(normal("none"), (Some(true), None, Some(Disabled::Removed)));
    assert_eq!(normal("global"), (Some(false), None, Some(Disabled::Zeroed)));
    assert_eq!(normal("full"), (Some(false), None, Some(Disabled::Removed)));
}

#[test]
fn none_drops_what_cannot_matter_and_inherits_the_rest() {
    let settings = serde_json::json!({"inject": "full", "bos": false, "lead_in": ":", "seed": 3});
    let mut upstream = Upstream::default();
    let kind = ("train_projector", settings.as_object().unwrap().clone().into());
    upstream.stages.insert("projector".into(), kind);
    let fields = serde_json::json!({"text": "data:t", "packs": "stage:packs", "projector": "stage:p",
        "pairing": "wrong_clip", "pairing_seed": 4});
    let mut config: Config = serde_json::from_value(fields.clone()).unwrap();
    Perplexity::normalise(&mut config, &upstream);
    assert_eq!(
        (config.inject, config.as_text.bos, config.as_text.lead_in.as_deref()),
        (Some(Inject::Full), Some(false), Some(":"))
    );
    assert_eq!((config.pairing_seed, config.sources.packs.is_some()), (4, true));
    let mut config: Config = serde_json::from_value(fields).unwrap();
    config.inject = Some(Inject::None);
    Perplexity::normalise(&mut config, &upstream);
    assert_eq!((config.sources.packs, config.sources.projector, config.pairing), (None, None, Pairing::Right));
    assert_eq!((config.as_text.bos, config.pairing_seed), (Some(false), 0));
}
