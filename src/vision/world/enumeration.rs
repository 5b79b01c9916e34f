//! Exact entropies by enumeration of the whole grammar.
//!
//! For a target word w after the prefix p and under knowledge k, the bits are −log2 P(w | p, k), where P counts the
//! captions (content and verb coins, all equally likely) that agree with p and k. No model is asked.

use std::collections::HashMap;

use super::grammar::{self, Phase, Word, World};

/// What is known about the clip when a word is predicted: the inject modes and one control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Only the words before.
    None,
    /// A vector that is the mean over all frames: what occurs, not in which phase.
    Global,
    /// After each content word, the phase that it is spoken in.
    Local,
    /// Both.
    Full,
    /// After each content word, the mean over all frames: what `local` would know without its order.
    Locmean,
}

impl Knowledge {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Global, Self::Local, Self::Full, Self::Locmean];

    /// The name in files, as the inject modes are written.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Global => "global",
            Self::Local => "local",
            Self::Full => "full",
            Self::Locmean => "locmean",
        }
    }

    fn mean_is_known(self, content_words: usize) -> bool {
        match self {
            Self::Global | Self::Full => true,
            Self::Locmean => content_words > 0,
            Self::None | Self::Local => false,
        }
    }
}

/// The bits of each target of a world's captions. They are the same for every caption of a world, because all captions
/// have one form and all contents are equally likely; a test checks it.
#[derive(Clone, Debug)]
pub struct Enumeration {
    /// A caption, for the words' roles.
    pub example: Vec<Word>,
    /// Per [`Knowledge::ALL`] the bits of each word and, last, of the end of the caption.
    pub bits: Vec<Vec<f64>>,
}

impl Enumeration {
    /// Enumerates `world`: 1,920 captions of one clause, 107,520 of two (about a second).
    pub fn of(world: World) -> Self {
        let captions = Captions::of(world);
        let targets = captions.words[0].len() + 1;
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let bits = Knowledge::ALL.map(|knowledge| (0..targets).map(|t| mean(captions.bits(knowledge, t))).collect());
        Self { example: captions.words[0].clone(), bits: bits.to_vec() }
    }

    /// The bits of each word and of the end of the caption under `knowledge`.
    pub fn targets(&self, knowledge: Knowledge) -> &[f64] {
        &self.bits[knowledge as usize]
    }

    /// Bits of a whole caption under `knowledge`.
    pub fn total(&self, knowledge: Knowledge) -> f64 {
        self.targets(knowledge).iter().sum()
    }
}

/// Every caption of a world with what is needed to count them.
struct Captions {
    words: Vec<Vec<Word>>,
    contents: Vec<Vec<Phase>>,
    /// `prefixes[i][t]`: number that caption i's first t words share with equal beginnings only.
    prefixes: Vec<Vec<u32>>,
}

impl Captions {
    fn of(world: World) -> Self {
        let (mut words, mut contents, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        let mut numbers: HashMap<(u32, &str), u32> = HashMap::new();
        let combinations = 1usize << world.clauses();
        for phases in world.contents() {
            for coins in 0..combinations {
                let coins: Vec<usize> = (0..world.clauses()).map(|clause| coins >> clause & 1).collect();
                let caption = world.caption(&phases, &coins);
                let mut path = vec![0];
                for word in &caption {
                    let fresh = numbers.len() as u32 + 1;
                    path.push(*numbers.entry((path[path.len() - 1], word.text)).or_insert(fresh));
                }
                words.push(caption);
                contents.push(phases.clone());
                prefixes.push(path);
            }
        }
        Self { words, contents, prefixes }
    }

    /// What `knowledge` tells of caption `index` when its target `t` is predicted, as a number.
    fn told(&self, knowledge: Knowledge, index: usize, t: usize) -> u64 {
        let (words, phases) = (&self.words[index], &self.contents[index]);
        let spoken = words[..t].iter().filter(|word| word.content);
        let mut told = 0;
        if knowledge.mean_is_known(spoken.clone().count()) {
            let mut slots = [[0; 2]; 4];
            for (position, phase) in phases.iter().enumerate() {
                for (slot, value) in slots.iter_mut().zip([phase.agent, phase.action, phase.patient, phase.place]) {
                    slot[position] = value as u64 + 1;
                }
            }
            for slot in &mut slots {
                slot.sort_unstable();
                told = slot.iter().fold(told, |number, value| number * 10 + value);
            }
        }
        for (position, phase) in phases.iter().enumerate() {
            let seen = spoken.clone().any(|word| word.phase == position);
            let known = seen && matches!(knowledge, Knowledge::Local | Knowledge::Full);
            let code = ((phase.agent * 8 + phase.action) * 5 + phase.patient) * 4 + phase.place;
            told = told * 1000 + if known { code as u64 + 1 } else { 0 };
        }
        told
    }

    /// −log2 P(target t | prefix, knowledge) of every caption.
    fn bits(&self, knowledge: Knowledge, t: usize) -> Vec<f64> {
        let first = self.words[0].get(t);
        if self.words.iter().all(|words| words.get(t).map(|word| word.text) == first.map(|word| word.text)) {
            return vec![0.0; self.words.len()];
        }
        let keys: Vec<(u32, u64)> =
            (0..self.words.len()).map(|index| (self.prefixes[index][t], self.told(knowledge, index, t))).collect();
        let (mut agreeing, mut saying) = (HashMap::new(), HashMap::new());
        for (key, path) in keys.iter().zip(&self.prefixes) {
            *agreeing.entry(*key).or_insert(0u32) += 1;
            *saying.entry((*key, path[t + 1])).or_insert(0u32) += 1;
        }
        keys.iter()
            .zip(&self.prefixes)
            .map(|(key, path)| (f64::from(agreeing[key]) / f64::from(saying[&(*key, path[t + 1])])).log2())
            .collect()
    }
}

/// The name of target `t` in files: the slot that its word fills, the word itself for the fixed ones, `eos` at the end.
pub fn role(example: &[Word], t: usize) -> String {
    let Some(word) = example.get(t) else { return "eos".to_owned() };
    let slot = if grammar::AGENTS.contains(&word.text) {
        "agent"
    } else if grammar::PATIENTS.contains(&word.text) {
        "patient"
    } else if grammar::PLACES.contains(&word.text) {
        "place"
    } else if word.pos == "VERB" {
        "verb"
    } else {
        return word.text.to_owned();
    };
    format!("{slot}{}", word.phase + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(world: World) -> Vec<f64> {
        let enumeration = Enumeration::of(world);
        Knowledge::ALL.iter().map(|knowledge| enumeration.total(*knowledge)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 5e-4, "found {found}, expected {expected}");
        }
    }

    #[test]
    fn one_clause_leaves_the_bits_of_the_design() {
        // None, global, local, full, locmean. The first content word comes after the agent's colour: log2 6 more.
        let local = 6f64.log2() + 1.0;
        assert_close(&totals(World::OneClause), &[10.907, 1.0, local, 1.0, local]);
    }

    #[test]
    fn two_clauses_leave_the_bits_of_the_design() {
        assert_close(&totals(World::TwoClause), &[16.714, 5.0, 3.0, 2.0, 6.0]);
    }

    #[test]
    fn every_caption_of_a_world_has_the_same_bits() {
        for world in [World::OneClause, World::TwoClause] {
            let captions = Captions::of(world);
            for knowledge in Knowledge::ALL {
                for t in 0..=captions.words[0].len() {
                    let bits = captions.bits(knowledge, t);
                    assert!(bits.iter().all(|value| (value - bits[0]).abs() < 1e-12), "{knowledge:?} {t}");
                }
            }
        }
    }

    #[test]
    fn roles_name_the_slots() {
        let enumeration = Enumeration::of(World::TwoClause);
        let roles: Vec<String> = (0..22).map(|t| role(&enumeration.example, t)).collect();
        assert_eq!(roles[1], "agent1");
        assert_eq!([&roles[3], &roles[14], &roles[20], &roles[21]], ["verb1", "verb2", "place2", "eos"]);
        assert_eq!(enumeration.targets(Knowledge::Local)[1], 1.0, "the agent is said before the first local token");
    }
}
