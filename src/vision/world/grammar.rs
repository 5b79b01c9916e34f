//! Latents and captions of the simulated world.
//!
//! One clause: `the C1 one V the C2 one at the PLACE`. Two clauses: `the A one V1 the C1 one at the P1 then the A one V2
//! the C2 one at the P2`, with the same agent in both and another action, patient and place in the second. Every action
//! has two verbs and a fair coin picks one, so that no picture can tell the whole caption.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stats::random::Stream;

/// Words for the agent's colour (the two-clause world uses the first two).
pub const AGENTS: [&str; 6] = ["red", "blue", "green", "yellow", "purple", "orange"];
/// Words for the patient's colour; none of them is an agent's.
pub const PATIENTS: [&str; 5] = ["white", "black", "pink", "cyan", "brown"];
/// Words for places.
pub const PLACES: [&str; 4] = ["door", "tree", "lamp", "window"];
/// Background tones, which no caption mentions.
pub const BACKGROUNDS: [&str; 4] = ["dark", "dim", "light", "bright"];

/// One kind of action.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// Name, for tags and files.
    pub name: &'static str,
    /// The two verbs between which a fair coin chooses.
    pub verbs: [&'static str; 2],
    /// Whether it is kind (true) or unkind.
    pub kind: bool,
}

/// The eight actions. Their order is that of the latent's values.
pub const ACTIONS: [Action; 8] = [
    Action { name: "greet", verbs: ["greets", "welcomes"], kind: true },
    Action { name: "lead", verbs: ["leads", "guides"], kind: true },
    Action { name: "hug", verbs: ["hugs", "embraces"], kind: true },
    Action { name: "carry", verbs: ["carries", "lifts"], kind: true },
    Action { name: "ignore", verbs: ["ignores", "shuns"], kind: false },
    Action { name: "chase", verbs: ["chases", "pursues"], kind: false },
    Action { name: "push", verbs: ["pushes", "shoves"], kind: false },
    Action { name: "attack", verbs: ["attacks", "bites"], kind: false },
];

/// Which grammar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum World {
    /// Ten words, one interaction.
    #[default]
    OneClause,
    /// Twenty-one words, two interactions of one agent, one after the other.
    TwoClause,
}

/// What happens in one phase of a clip: indices into [`AGENTS`], [`ACTIONS`], [`PATIENTS`], [`PLACES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Phase {
    /// Colour of the agent, the larger shape.
    pub agent: usize,
    /// What it does.
    pub action: usize,
    /// Colour of the patient, the smaller shape.
    pub patient: usize,
    /// Where.
    pub place: usize,
}

/// Everything that a clip shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latents {
    /// One phase per clause, in order.
    pub phases: Vec<Phase>,
    /// Index into [`BACKGROUNDS`].
    pub background: usize,
}

/// One word of a caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: &'static str,
    /// Universal part of speech.
    pub pos: &'static str,
    /// Whether a local social token may follow it (nouns and verbs).
    pub content: bool,
    /// The clause and phase that it belongs to, from 0.
    pub phase: usize,
}

impl World {
    /// Clauses of a caption and phases of a clip.
    pub fn clauses(self) -> usize {
        match self {
            Self::OneClause => 1,
            Self::TwoClause => 2,
        }
    }

    /// Colours that an agent can have.
    pub fn agents(self) -> &'static [&'static str] {
        match self {
            Self::OneClause => &AGENTS,
            Self::TwoClause => &AGENTS[..2],
        }
    }

    /// All contents that a clip can have, background left out, in a fixed order. All are equally likely.
    pub fn contents(self) -> Vec<Vec<Phase>> {
        let mut firsts = Vec::new();
        for agent in 0..self.agents().len() {
            for action in 0..ACTIONS.len() {
                for patient in 0..PATIENTS.len() {
                    for place in 0..PLACES.len() {
                        firsts.push(Phase { agent, action, patient, place });
                    }
                }
            }
        }
        match self {
            Self::OneClause => firsts.into_iter().map(|phase| vec![phase]).collect(),
            Self::TwoClause => {
                let follows = |a: &Phase, b: &Phase| {
                    a.agent == b.agent && a.action != b.action && a.patient != b.patient && a.place != b.place
                };
                let pairs = firsts.iter().flat_map(|first| firsts.iter().map(move |second| (first, second)));
                pairs.filter(|(first, second)| follows(first, second)).map(|(a, b)| vec![*a, *b]).collect()
            }
        }
    }

    /// Draws the latents of one clip: uniform over [`World::contents`] and, independently, the backgrounds.
    pub fn draw(self, stream: &mut Stream) -> Latents {
        let agent = stream.below(self.agents().len());
        let mut actions = stream.permutation(ACTIONS.len()).into_iter();
        let mut patients = stream.permutation(PATIENTS.len()).into_iter();
        let mut places = stream.permutation(PLACES.len()).into_iter();
        let phases = std::iter::from_fn(|| {
            Some(Phase { agent, action: actions.next()?, patient: patients.next()?, place: places.next()? })
        });
        Latents { phases: phases.take(self.clauses()).collect(), background: stream.below(BACKGROUNDS.len()) }
    }

    /// The caption of `phases`; `coins[k]` picks the verb of clause k.
    pub fn caption(self, phases: &[Phase], coins: &[usize]) -> Vec<Word> {
        let mut words = Vec::new();
        for (index, (phase, &coin)) in phases.iter().zip(coins).enumerate() {
            let mut say = |text, pos| {
                let content = matches!(pos, "NOUN" | "VERB");
                words.push(Word { text, pos, content, phase: index });
            };
            if index > 0 {
                say("then", "ADV");
            }
            say("the", "DET");
            say(AGENTS[phase.agent], "ADJ");
            say("one", "NOUN");
            say(ACTIONS[phase.action].verbs[coin], "VERB");
            say("the", "DET");
            say(PATIENTS[phase.patient], "ADJ");
            say("one", "NOUN");
            say("at", "ADP");
            say("the", "DET");
            say(PLACES[phase.place], "NOUN");
        }
        words
    }

    /// Tosses one verb coin per clause.
    pub fn toss(self, stream: &mut Stream) -> Vec<usize> {
        (0..self.clauses()).map(|_| stream.below(2)).collect()
    }
}

impl Latents {
    /// What a frame of a phase shows: agent, action, patient, place and background, as indices.
    pub fn shown(&self, phase: usize) -> [usize; 5] {
        let Phase { agent, action, patient, place } = self.phases[phase];
        [agent, action, patient, place, self.background]
    }
}

impl Phase {
    /// The tags of what is true in this phase: words that no caption uses.
    pub fn tags(&self) -> Vec<String> {
        vec![
            format!("agent={}", AGENTS[self.agent]),
            format!("action={}", ACTIONS[self.action].name),
            format!("patient={}", PATIENTS[self.patient]),
            format!("place={}", PLACES[self.place]),
        ]
    }
}

/// The tags of all phases, each once, in the order of their first mention.
pub fn tags(phases: &[Phase]) -> Vec<String> {
    let mut all = Vec::new();
    for tag in phases.iter().flat_map(Phase::tags) {
        if !all.contains(&tag) {
            all.push(tag);
        }
    }
    all
}

/// When each word is spoken, in seconds (start, end): the words of a clause are spread evenly over its phase.
pub fn times(words: &[Word], phase_seconds: f64) -> Vec<(f64, f64)> {
    let count = |phase| words.iter().filter(|word| word.phase == phase).count() as f64;
    let mut spoken = vec![0.0; words.last().map_or(0, |word| word.phase + 1)];
    let time = |phase: usize, word: f64| phase_seconds * (phase as f64 + word / count(phase));
    words
        .iter()
        .map(|word| {
            let position = &mut spoken[word.phase];
            *position += 1.0;
            (time(word.phase, *position - 1.0), time(word.phase, *position))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::random::Streams;

    fn text(words: &[Word]) -> String {
        words.iter().map(|word| word.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn captions_follow_the_grammar() {
        let phase = Phase { agent: 0, action: 5, patient: 2, place: 1 };
        let one = World::OneClause.caption(&[phase], &[1]);
        assert_eq!(text(&one), "the red one pursues the pink one at the tree");
        let second = Phase { agent: 0, action: 3, patient: 4, place: 3 };
        let two = World::TwoClause.caption(&[phase, second], &[0, 1]);
        assert_eq!(
            text(&two),
            "the red one chases the pink one at the tree then the red one lifts the brown one at the window"
        );
        assert_eq!(two.len(), 21);
        let content: Vec<&str> = two.iter().filter(|word| word.content).map(|word| word.text).collect();
        assert_eq!(content, ["one", "chases", "one", "tree", "one", "lifts", "one", "window"]);
        assert_eq!(tags(&[phase, second]).len(), 7, "the agent's tag is not said twice");
    }

    #[test]
    fn words_are_spread_over_their_phase() {
        let phase = Phase { agent: 0, action: 0, patient: 0, place: 0 };
        let words = World::TwoClause.caption(&[phase, phase], &[0, 0]);
        let times = times(&words, 1.5);
        assert!(times[0].0 == 0.0 && (times[0].1 - 0.15).abs() < 1e-12);
        assert!((times[9].1 - 1.5).abs() < 1e-12 && (times[10].0 - 1.5).abs() < 1e-12);
        assert!((times[20].1 - 3.0).abs() < 1e-12);
    }

    #[test]
    fn drawn_latents_are_contents_and_reach_every_value() {
        for world in [World::OneClause, World::TwoClause] {
            let contents = world.contents();
            assert_eq!(contents.len(), if world == World::OneClause { 960 } else { 2 * 8 * 7 * 5 * 4 * 4 * 3 });
            let mut stream = Streams::new(0, "test").named("latents");
            let drawn: Vec<Latents> = (0..400).map(|_| world.draw(&mut stream)).collect();
            assert!(drawn.iter().all(|latents| contents.contains(&latents.phases)));
            for action in 0..ACTIONS.len() {
                assert!(drawn.iter().any(|latents| latents.phases[0].action == action));
            }
        }
    }

    #[test]
    fn no_word_serves_two_purposes() {
        let mut words: Vec<&str> = vec!["the", "one", "at", "then"];
        words.extend(AGENTS.iter().chain(&PATIENTS).chain(&PLACES));
        words.extend(ACTIONS.iter().flat_map(|action| action.verbs));
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
