//! The nearest known word.

/// Longer words are compared by their beginnings only: the distance of two takes memory by the product of their lengths.
const LONGEST: usize = 64;

/// The candidates that are near enough to `word`, nearest first.
///
/// The measure is the Damerau-Levenshtein distance (an interchange counts one), without regard to case and with `-` as
/// `_`; a word that starts with the other counts one and a half. Ties go to the greater Jaro-Winkler similarity, then to the order
/// of the candidates, so put those first that are more to be expected.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = plain(word);
    let letters = Letters::of(&wanted);
    let mut ranked: Vec<(usize, f64, usize, &str)> = candidates
        .into_iter()
        .enumerate()
        .filter(|(_, candidate)| letters.as_ref().is_none_or(|letters| letters.may_be_near(candidate)))
        .filter_map(|(order, candidate)| {
            let known = plain(candidate);
            let shorter = wanted.chars().count().min(known.chars().count());
            let longer = wanted.chars().count().max(known.chars().count());
            let mut distance =
                if longer > LONGEST { usize::MAX } else { 2 * strsim::damerau_levenshtein(&wanted, &known) };
            if shorter >= 3 && (known.starts_with(&wanted) || wanted.starts_with(&known)) {
                distance = distance.min(3);
            }
            let allowed = 2 * allowed(longer);
            (distance <= allowed && distance < 2 * longer)
                .then(|| (distance, strsim::jaro_winkler(&wanted, &known), order, candidate))
        })
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
    ranked.into_iter().map(|(_, _, _, candidate)| candidate).collect()
}

/// How many changes may lie between two words of which the longer has this many characters.
fn allowed(longer: usize) -> usize {
    (longer / 3).max(if longer > 2 { 2 } else { 1 })
}

/// The letters of an ASCII word, which tell without any distance that most words are far from it.
struct Letters<'a> {
    word: &'a [u8],
    counts: [u8; 128],
}

impl<'a> Letters<'a> {
    /// `None` for words of other characters and for long ones.
    fn of(word: &'a str) -> Option<Self> {
        let mut counts = [0; 128];
        if !word.is_ascii() || word.len() > LONGEST {
            return None;
        }
        word.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
        Some(Self { word: word.as_bytes(), counts })
    }

    /// False only when [`nearest`] would leave the candidate out: a change brings at most one letter that the other word
    /// lacks, an interchange none.
    fn may_be_near(&self, candidate: &str) -> bool {
        if !candidate.is_ascii() {
            return true;
        }
        let plain = candidate.bytes().map(|byte| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() });
        let (mut counts, mut shared) = (self.counts, 0);
        for byte in plain.clone() {
            let left = &mut counts[usize::from(byte)];
            shared += usize::from(*left > 0);
            *left = left.saturating_sub(1);
        }
        let longer = self.word.len().max(candidate.len());
        longer - shared <= allowed(longer) || self.word.iter().copied().zip(plain).all(|(one, other)| one == other)
    }
}

/// A hint: the nearest word if there is one, and what is known otherwise. `what` is a plural (`keys`, `stages`).
pub(super) fn hint<'a>(word: &str, what: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if candidates.is_empty() {
        return format!("there are no {what} here");
    }
    let near = nearest(word, candidates.iter().copied());
    if let Some((first, rest)) = near.split_first() {
        let others: String = rest.iter().take(2).map(|other| format!(" or `{other}`")).collect();
        return format!("did you mean `{first}`{others}?");
    }
    format!("known {what}: {}", list(&candidates))
}

/// `a`, `b`, … in backticks, at most thirty.
pub(super) fn list<S: AsRef<str>>(words: &[S]) -> String {
    let mut shown: Vec<String> = words.iter().take(30).map(|word| format!("`{}`", word.as_ref())).collect();
    if words.len() > shown.len() {
        shown.push(format!("and {} more", words.len() - shown.len()));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_word_comes_first_after_usual_slips() {
        let words =
            ["epochs", "batch", "seed", "steps", "inject", "to", "values", "set", "where", "lr", "pool", "split"];
        for word in words {
            let letters: Vec<char> = word.chars().collect();
            for at in 0..letters.len() {
                let mut slips = Vec::new();
                let mut doubled = letters.clone();
                doubled.insert(at, letters[at]);
                slips.push(doubled);
                if letters.len() > 3 {
                    let mut dropped = letters.clone();
                    dropped.remove(at);
                    slips.push(dropped);
                }
                if at > 0 && letters[at] != letters[at - 1] {
                    let mut swapped = letters.clone();
                    swapped.swap(at, at - 1);
                    slips.push(swapped);
                }
                for slip in slips {
                    let slip: String = slip.into_iter().collect();
                    if !words.contains(&slip.as_str()) {
                        assert_eq!(nearest(&slip, words).first(), Some(&word), "{slip}");
                    }
                }
            }
        }
        assert_eq!(nearest("perplex", ["projector", "perplexity"]).first(), Some(&"perplexity"));
        assert_eq!(nearest("learning-rate", ["seed", "learning_rate"]).first(), Some(&"learning_rate"));
        assert!(nearest("zzz", words).is_empty());
        // What is left out by its letters is far by the distance too.
        let known = ["Learning-Rate", "rate_learning", "steps", "é", "x", "", "layers.16", "seeds"];
        for word in ["learnin_rate", "LEARNING_RATE", "see", "y", "layers_16", "pets", "ab", "naïve"] {
            let Some(letters) = Letters::of(word) else { continue };
            for far in known.into_iter().filter(|known| !letters.may_be_near(known)) {
                let distance = strsim::damerau_levenshtein(word, &far.to_lowercase().replace('-', "_"));
                assert!(distance > allowed(word.len().max(far.len())), "{word} {far}");
            }
        }
        let long = "long".repeat(50_000);
        assert_eq!(
            nearest(&long, [&*format!("{long}er"), "long", &*"g".repeat(200_000)]),
            [&format!("{long}er"), "long"]
        );
        assert_eq!(hint("zzz", "keys", ["a", "b"]), "known keys: `a`, `b`");
    }
}
