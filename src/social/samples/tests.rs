use super::super::prompt::Inject;
use super::super::transcripts::{Word, settle};
use super::*;

/// One token per character, its code as id.
struct Letters;

impl Encode for Letters {
    fn encode(&self, text: &str) -> Result<Encoded> {
        let ids = text.chars().map(|letter| letter as u32).collect();
        Ok(Encoded { ids, offsets: (0..text.chars().count()).map(|at| (at, at + 1)).collect() })
    }
    fn bos(&self) -> u32 {
        '^' as u32
    }
    fn eos(&self) -> u32 {
        '$' as u32
    }
}

fn clip(turns: &[(&str, &str)]) -> Clip {
    let utterances = turns.iter().enumerate().map(|(index, (speaker, text))| {
        let mut utterance = Utterance {
            text: (*text).into(),
            speaker: Some((*speaker).into()),
            oracle_text: Some("#".into()),
            index,
            eos_true_bits: Some(0.25),
            ..Utterance::default()
        };
        settle(&mut utterance).unwrap();
        for (place, word) in utterance.words.iter_mut().enumerate() {
            word.pos = Some(if place % 2 == 0 { "NOUN" } else { "DET" }.into());
            word.true_bits = Some(place as f64);
        }
        utterance
    });
    Clip { clip_id: "c".into(), utterances: utterances.collect(), ..Clip::default() }
}

fn show(sequence: &Sequence) -> String {
    sequence
        .slots
        .iter()
        .map(|slot| match slot {
            Slot::Global => '@',
            Slot::Local(_) => '*',
            slot => char::from_u32(slot.id().unwrap()).unwrap(),
        })
        .collect()
}

fn predicted(sequence: &Sequence) -> String {
    sequence.targets.iter().map(|target| char::from_u32(target.id).unwrap()).collect()
}

fn samples(clip: &Clip, prompt: &Prompt) -> Vec<Sequence> {
    let mut row = 0;
    let mut locals = Vec::new();
    for utterance in &clip.utterances {
        for word in (0..utterance.words.len()).step_by(2) {
            locals.push(Local { utterance: utterance.index, word, frames: vec![0], row });
            row += 1;
        }
    }
    build(std::slice::from_ref(clip), prompt, &["NOUN".into()], &Letters, |_| Ok(&locals)).unwrap()
}

#[test]
fn utterances_keep_their_labels_in_every_arm() {
    let clip = clip(&[("A", "ab c de.")]);
    let arms = [
        (Inject::None, "^:ab c de.$"),
        (Inject::Global, "^@:ab c de.$"),
        (Inject::Local, "^:ab* c de.*$"),
        (Inject::Full, "^@:ab* c de.*$"),
    ];
    for (inject, expected) in arms {
        let prompt = Prompt { inject, lead_in: ":".into(), label_eos: true, ..Prompt::default() };
        let built = samples(&clip, &prompt);
        assert_eq!(show(&built[0]), expected, "{inject:?}");
        assert_eq!(predicted(&built[0]), "ab c de.$");
        for target in &built[0].targets {
            assert_eq!(built[0].slots[target.position].id(), Some(target.id));
        }
    }
    let prompt =
        Prompt { oracle_text: true, bos: false, append_eos: false, inject: Inject::Global, ..Prompt::default() };
    let built = samples(&clip, &prompt);
    assert_eq!((show(&built[0]).as_str(), predicted(&built[0]).as_str()), ("@#ab c de.", "b c de."));
}

#[test]
fn without_bos_no_arm_predicts_the_first_token() {
    let clip = clip(&[("A", "ab c")]);
    for inject in [Inject::None, Inject::Full] {
        let built = samples(&clip, &Prompt { bos: false, inject, ..Prompt::default() });
        assert_eq!(predicted(&built[0]), "b c");
    }
}

#[test]
fn words_bits_and_classes_stand_at_their_tokens() {
    let clip = clip(&[("A", "ab cd")]);
    let prompt = Prompt { label_eos: true, ..Prompt::default() };
    let targets = samples(&clip, &prompt).remove(0).targets;
    let seen: Vec<_> = targets.iter().map(|t| (t.word, t.class, t.true_bits, t.number)).collect();
    let expected = [
        (Some(0), Class::Content, Some(0.0), 0),
        (Some(0), Class::Content, Some(0.0), 1),
        (None, Class::Text, None, 2),
        (Some(1), Class::Function, Some(1.0), 3),
        (Some(1), Class::Function, Some(0.0), 4),
        (None, Class::Eos, Some(0.25), 5),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn next_words_never_show_the_words_own_token() {
    let clip = clip(&[("A", "ab c de")]);
    let prompt = Prompt { samples: Samples::NextWord, inject: Inject::Full, label_eos: true, ..Prompt::default() };
    let built = samples(&clip, &prompt);
    let seen: Vec<_> = built.iter().map(|sample| (show(sample), predicted(sample))).collect();
    assert_eq!(seen[0], ("^@ab* c$".into(), " c$".into()));
    assert_eq!(seen[1], ("^@ab* c de$".into(), " de$".into()));
    assert_eq!(built[1].targets[0].number, 3, "targets are numbered on within the utterance");
    let tagged = samples(&clip, &Prompt { tags: Tags::Duplicated, ..prompt });
    assert_eq!(show(&tagged[0]), "^@[CAP]: ab* [CAP]: [CAP]: c$");
    assert_eq!(predicted(&tagged[0]), "[CAP]: c$");
    assert_eq!(tagged[0].targets.iter().filter(|target| target.class == Class::Tag).count(), 6);
}

#[test]
fn next_utterances_have_locals_in_the_last_turn_of_context_only() {
    let clip = clip(&[("A", "ab"), ("B", "c d"), ("A", "ef g")]);
    let prompt = Prompt {
        samples: Samples::NextUtterance,
        inject: Inject::Full,
        context_turns: 2,
        tags: Tags::Prompt,
        ..Prompt::default()
    };
    let built = samples(&clip, &prompt);
    assert_eq!(built.len(), 1);
    assert_eq!((show(&built[0]).as_str(), built[0].utterance), ("^@[A]: ab [B]: c* d [A]: ef g$", 2));
    assert_eq!(predicted(&built[0]), " ef g");
    let one = super::super::samples::tests::clip(&[("A", "a b c d e")]);
    let built = samples(&one, &Prompt { chunk_words: 2, context_turns: 1, tags: Tags::None, ..prompt });
    let seen: Vec<_> = built.iter().map(show).collect();
    assert_eq!(seen, ["^@a* b c d$", "^@c* d e$"]);
    assert_eq!(predicted(&built[1]), " e");
}

#[test]
fn whole_clips_join_their_turns() {
    let clip = clip(&[("A", "ab"), ("B", "c")]);
    let locals = [Local { utterance: 1, word: 0, frames: vec![0], row: 0 }];
    let prompt = Prompt { inject: Inject::Full, ..Prompt::default() };
    let built = whole(std::slice::from_ref(&clip), &prompt, &Letters, |_| Ok(&locals)).unwrap();
    assert_eq!(show(&built[0]), "^@ab c*$");
    let many = Clip { captions: true, ..clip };
    assert!(whole(&[many], &prompt, &Letters, |_| Ok(&locals)).unwrap_err().to_string().contains("caption_index"));
}

#[test]
fn several_words_in_one_token_follow_in_word_order() {
    struct One;
    impl Encode for One {
        fn encode(&self, text: &str) -> Result<Encoded> {
            Ok(Encoded { ids: vec![7], offsets: vec![(0, text.chars().count())] })
        }
        fn bos(&self) -> u32 {
            2
        }
        fn eos(&self) -> u32 {
            1
        }
    }
    let clip = clip(&[("A", "ab c de")]);
    let locals = [0, 2].map(|word| Local { utterance: 0, word, frames: vec![0], row: word });
    let prompt = Prompt { inject: Inject::Local, ..Prompt::default() };
    let built = build(&[clip], &prompt, &[], &One, |_| Ok(&locals)).unwrap();
    assert_eq!(built[0].slots, [Slot::Bos(2), Slot::Text(7), Slot::Local(0), Slot::Local(1), Slot::Eos(1)]);
    assert_eq!(Word::default().is_content(&[]), None);
}
