//! Who and what a clip's id names, where it is written as in the Seamless Interaction dataset.
//!
//! `V00_S0809_I00000582_P0947` is what vendor 00 recorded of person 0947 in interaction 582 of session 809 (the dataset's
//! README). Both persons of an interaction have a file of their own. What follows after a further `_` is a piece of it.

/// The parts of such an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording<'a> {
    vendor: &'a str,
    session: &'a str,
    interaction: &'a str,
    person: &'a str,
}

impl<'a> Recording<'a> {
    /// The parts of `clip_id`; `None` when it is written otherwise.
    pub fn of(clip_id: &'a str) -> Option<Self> {
        let mut parts = clip_id.split('_');
        let mut next = |letter: char| {
            let part = parts.next()?;
            let digits = part.strip_prefix(letter)?;
            (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(part)
        };
        Some(Self { vendor: next('V')?, session: next('S')?, interaction: next('I')?, person: next('P')? })
    }

    /// `V00_S0809`: numbers of sessions are a vendor's own.
    pub fn session(&self) -> String {
        format!("{}_{}", self.vendor, self.session)
    }

    /// `V00_S0809_I00000582`: the conversation that both persons' files belong to.
    pub fn scene(&self) -> String {
        format!("{}_{}_{}", self.vendor, self.session, self.interaction)
    }

    /// `P0947`. The same number at two vendors is taken as one person: of the two mistakes the one that leaks nothing.
    pub fn person(&self) -> String {
        self.person.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_the_dataset_names_its_session_scene_and_person() {
        let id = Recording::of("V00_S0809_I00000582_P0947").unwrap();
        assert_eq!((id.session().as_str(), id.person().as_str()), ("V00_S0809", "P0947"));
        assert_eq!(id.scene(), "V00_S0809_I00000582");
        assert_eq!(Recording::of("V00_S0809_I00000582_P0947_3"), Some(id));
        for other in ["clip_001", "V00_S0809_I00000582", "V_S1_I2_P3", "V00_S0809_I00000582_P09a", ""] {
            assert_eq!(Recording::of(other), None, "{other}");
        }
    }
}
