use super::super::prompt::{Disabled, Inject, Tags};
use super::super::transcripts::{Utterance, Word, settle};
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
            Slot::Zeroed => '0',
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

/// Each target with what the model reads before it, which decides the probability, since attention is causal.
fn contexts(built: &[Sequence]) -> Vec<(&[Slot], &Target)> {
    let targets = built.iter().flat_map(|sequence| sequence.targets.iter().map(move |target| (sequence, target)));
    targets.map(|(sequence, target)| (&sequence.slots[..target.position], target)).collect()
}

#[test]
fn one_pass_predicts_what_single_samples_do() {
    let clip = clip(&[("A", "ab c de fgh"), ("B", "i jk")]);
    for inject in [Inject::None, Inject::Global, Inject::Local, Inject::Full] {
        for label_eos in [false, true] {
            let single = Prompt { samples: Samples::NextWord, inject, label_eos, ..Prompt::default() };
            let (one_by_one, together) =
                (samples(&clip, &single), samples(&clip, &Prompt { one_pass: true, ..single.clone() }));
            assert_eq!((one_by_one.len(), together.len()), (4, 2), "{inject:?}");
            assert_eq!(together.iter().map(|sequence| sequence.samples).collect::<Vec<_>>(), [3, 1]);
            assert_eq!(contexts(&one_by_one), contexts(&together), "{inject:?}");
        }
    }
    let prompt = Prompt { samples: Samples::NextWord, inject: Inject::Full, one_pass: true, ..Prompt::default() };
    assert_eq!(show(&samples(&clip, &prompt)[0]), "^@ab* c de* fgh$", "the last word's own token is never visible");
    // A tag between the words makes every sample another text.
    let tagged = Prompt { tags: Tags::Duplicated, ..prompt };
    assert_eq!(samples(&clip, &tagged), samples(&clip, &Prompt { one_pass: false, ..tagged.clone() }));
}

#[test]
fn words_that_share_a_token_stay_one_by_one() {
    /// As [`Letters`], but " c" after "b" is one token with it.
    struct Greedy;
    impl Encode for Greedy {
        fn encode(&self, text: &str) -> Result<Encoded> {
            let mut encoded = Letters.encode(text)?;
            if let Some(at) = text.find("b c") {
                encoded.ids.splice(at..at + 3, [999]);
                encoded.offsets.splice(at..at + 3, [(at, at + 3)]);
            }
            Ok(encoded)
        }
        fn bos(&self) -> u32 {
            2
        }
        fn eos(&self) -> u32 {
            1
        }
    }
    let clip = clip(&[("A", "ab c de")]);
    let prompt = Prompt { samples: Samples::NextWord, one_pass: true, ..Prompt::default() };
    let built = build(std::slice::from_ref(&clip), &prompt, &[], &Greedy, |_| Ok(&[])).unwrap();
    let single = Prompt { one_pass: false, ..prompt };
    assert_eq!(built, build(&[clip], &single, &[], &Greedy, |_| Ok(&[])).unwrap());
    assert_eq!(built.len(), 2);
}

#[test]
fn what_a_mode_leaves_out_may_keep_its_places() {
    let clip = clip(&[("A", "ab c de.")]);
    let seen = |inject| {
        let prompt = Prompt { inject, disabled: Disabled::Zeroed, ..Prompt::default() };
        let built = samples(&clip, &prompt).remove(0);
        (show(&built), predicted(&built))
    };
    let expected = [
        (Inject::None, "^ab c de.$"),
        (Inject::Global, "^@ab0 c de.0$"),
        (Inject::Local, "^0ab* c de.*$"),
        (Inject::Full, "^@ab* c de.*$"),
    ];
    for (inject, slots) in expected {
        assert_eq!(seen(inject), (slots.to_owned(), "ab c de.".to_owned()), "{inject:?}");
    }
}

#[test]
fn every_arm_keeps_the_same_of_what_is_too_long() {
    let clip = clip(&[("A", "ab c de.")]);
    for inject in [Inject::None, Inject::Global, Inject::Local, Inject::Full] {
        // BOS and six letters and spaces are seven tokens of text, whatever stands between them.
        let prompt =
            Prompt { inject, max_tokens: 7, truncation: Truncation::End, label_eos: true, ..Prompt::default() };
        let built = samples(&clip, &prompt);
        assert_eq!(predicted(&built[0]), "ab c d", "{inject:?}");
        let numbers = built[0].targets.iter().map(|target| target.number).collect::<Vec<_>>();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        let error = build(
            std::slice::from_ref(&clip),
            &Prompt { truncation: Truncation::Refuse, inject: Inject::None, ..prompt },
            &[],
            &Letters,
            |_| Ok(&[]),
        );
        assert!(error.unwrap_err().to_string().contains("truncation = \"end\""));
    }
}

fn timed(text: &str, start: f64, step: f64) -> Clip {
    let mut clip = clip(&[("A", text)]);
    for (place, word) in clip.utterances[0].words.iter_mut().enumerate() {
        word.start = Some(start + step * place as f64);
        word.end = Some(start + step * (place as f64 + 1.0));
    }
    clip
}

#[test]
fn a_single_turn_is_split_by_words_or_by_time() {
    let prompt = Prompt { samples: Samples::NextUtterance, context_turns: 1, ..Prompt::default() };
    let shown = |clip: &Clip, prompt: &Prompt| samples(clip, prompt).iter().map(predicted).collect::<Vec<_>>();
    // Thirty words of one letter: chunks of 12, 12 and 6 words, of which the first is only context.
    let words: Vec<String> = (0..30).map(|number| ((b'a' + number % 26) as char).to_string()).collect();
    let clip = timed(&words.join(" "), 0.0, 0.25);
    let by_words = shown(&clip, &Prompt { chunk_words: 12, ..prompt.clone() });
    assert_eq!(by_words.iter().map(|text| text.split_whitespace().count()).collect::<Vec<_>>(), [12, 6]);
    // A chunk closes with the first word that ends 1.5 s or more after the chunk began: six words of 0.25 s.
    let by_time = shown(&clip, &Prompt { chunk_seconds: 1.5, ..prompt.clone() });
    assert_eq!(by_time.iter().map(|text| text.split_whitespace().count()).collect::<Vec<_>>(), [6; 4]);
    // Never shorter than half a second.
    let short = shown(&clip, &Prompt { chunk_seconds: 0.1, ..prompt.clone() });
    assert_eq!(short.len(), 14);
    let untimed = super::super::samples::tests::clip(&[("A", "a b")]);
    let refused = |prompt: &Prompt| build(std::slice::from_ref(&untimed), prompt, &[], &Letters, |_| Ok(&[]));
    let error = refused(&Prompt { chunk_seconds: 1.5, ..prompt.clone() }).unwrap_err().to_string();
    assert!(error.contains("`chunk_words = 12`"), "{error}");
    let error = refused(&Prompt { chunk_seconds: 1.5, chunk_words: 12, ..prompt }).unwrap_err().to_string();
    assert!(error.contains("both `chunk_words` and `chunk_seconds`"), "{error}");
}

#[test]
fn the_context_ends_where_its_last_turn_does() {
    let mut clip = clip(&[("A", "ab"), ("B", "c d"), ("A", "e")]);
    for (utterance, (start, end)) in clip.utterances.iter_mut().zip([(0.0, 1.0), (1.5, 2.5), (3.0, 4.0)]) {
        (utterance.start, utterance.end) = (Some(start), Some(end));
    }
    let until = |samples: Samples| {
        let built = super::tests::samples(&clip, &Prompt { samples, ..Prompt::default() });
        built.iter().map(|sequence| sequence.until).collect::<Vec<_>>()
    };
    assert_eq!(until(Samples::NextUtterance), [Some(1.0), Some(2.5)]);
    assert_eq!(until(Samples::Utterance), [Some(0.0), Some(1.5), Some(3.0)]);
    let mut over = clip.clone();
    over.utterances[0].end = Some(2.0);
    let prompt = Prompt { samples: Samples::NextUtterance, ..Prompt::default() };
    assert_eq!(samples(&over, &prompt)[0].until, Some(1.5), "nobody is shown saying what is predicted");
    let chunked = timed("a b c d", 2.0, 1.0);
    let prompt = Prompt { samples: Samples::NextUtterance, chunk_words: 2, ..Prompt::default() };
    assert_eq!(samples(&chunked, &prompt)[0].until, Some(4.0), "the end of the chunk, not of the utterance");
    let one = whole(&[chunked], &prompt, &Letters, |_| Ok(&[])).unwrap();
    assert_eq!(one[0].until, Some(f64::INFINITY));
}

/// By hand: captions of 3, 5 and 28 words give 2 + 4 + 27 samples, whatever spaces stand around the words.
#[test]
fn a_caption_gives_a_sample_per_word_but_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("captions.csv");
    let long = vec!["word"; 28].join(" ");
    std::fs::write(&path, format!("clip_id,caption\na,two dogs play  \nb,  a man  and his cat\nc,{long}\n")).unwrap();
    let clips = super::super::transcripts::load(&path, &Default::default()).unwrap();
    let prompt = Prompt { samples: Samples::NextWord, ..Prompt::default() };
    let built = build(&clips, &prompt, &[], &Letters, |_| Ok(&[])).unwrap();
    let per_clip = (0..3).map(|clip| built.iter().filter(|sequence| sequence.clip == clip).count());
    assert_eq!(per_clip.collect::<Vec<_>>(), [2, 4, 27]);
    let together = build(&clips, &Prompt { one_pass: true, ..prompt }, &[], &Letters, |_| Ok(&[])).unwrap();
    assert_eq!((together.len(), together.iter().map(|sequence| sequence.samples).sum::<usize>()), (3, 33));
    assert_eq!(targets_digest(&clips, &built), targets_digest(&clips, &together));
    assert_ne!(targets_digest(&clips, &built), targets_digest(&clips, &built[1..]));
}

#[test]
fn bytes_are_those_of_the_text_without_tags() {
    let clip = clip(&[("A", "ab \u{e9}c")]);
    let prompt = Prompt { samples: Samples::NextWord, tags: Tags::Duplicated, label_eos: true, ..Prompt::default() };
    let built = samples(&clip, &prompt);
    // The space, two bytes of \u{e9}, one of c; nothing for the tag and for EOS.
    assert_eq!(built[0].targets.iter().map(|target| target.bytes).sum::<usize>(), 4);
    let tag: usize = built[0].targets.iter().filter(|target| target.class == Class::Tag).map(|t| t.bytes).sum();
    assert_eq!(tag, 0);
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
