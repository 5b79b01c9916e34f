//! What belongs together by clip, and what in that is odd.

use std::collections::{BTreeMap, BTreeSet};

use super::{Form, Name, Report};
use crate::social::alignment;
use crate::social::identity::Recording;
use crate::social::times::{self, Fault};
use crate::social::transcripts::Clip;

/// The frames of a clip.
pub(super) struct Shown {
    /// Where they lie.
    pub place: String,
    /// Their times in seconds, as they come.
    pub times: Vec<f64>,
}

/// Everything that was found, by clip.
#[derive(Default)]
pub(super) struct Clips {
    texts: BTreeMap<String, (String, Clip)>,
    frames: BTreeMap<String, Shown>,
    vectors: BTreeMap<(Form, String), BTreeSet<String>>,
    /// Clip → (split, place that says so).
    splits: BTreeMap<String, Vec<(String, String)>>,
    groups: BTreeMap<String, BTreeSet<String>>,
}

impl Clips {
    /// Adds a clip's text.
    pub fn text(&mut self, clip: Clip, place: &str, report: &mut Report) {
        self.split(&clip.clip_id, clip.split.as_deref(), clip.group.as_deref(), place);
        if let Some((first, _)) = self.texts.get(&clip.clip_id) {
            report.add(Name::DuplicateClip, place, Some(&clip.clip_id), format!("`{first}` has it too"));
            return;
        }
        self.texts.insert(clip.clip_id.clone(), (place.to_owned(), clip));
    }

    /// Adds a clip's frames.
    pub fn frames(&mut self, clip: &str, shown: Shown, report: &mut Report) {
        if let Some(first) = self.frames.get(clip) {
            report.add(Name::DuplicateClip, &shown.place, Some(clip), format!("`{}` has it too", first.place));
            return;
        }
        self.frames.insert(clip.to_owned(), shown);
    }

    /// Adds a clip of some vectors.
    pub fn vectors(&mut self, clip: &str, form: Form, place: &str) {
        self.vectors.entry((form, place.to_owned())).or_default().insert(clip.to_owned());
    }

    /// Adds what a place says of a clip's split and group.
    pub fn split(&mut self, clip: &str, split: Option<&str>, group: Option<&str>, place: &str) {
        if let Some(split) = split.filter(|split| !split.is_empty()) {
            let known = self.splits.entry(clip.to_owned()).or_default();
            if !known.iter().any(|(other, _)| other == split) {
                known.push((split.to_owned(), place.to_owned()));
            }
        }
        if let Some(group) = group {
            self.groups.entry(clip.to_owned()).or_default().insert(group.to_owned());
        }
    }

    /// Whether text, frames or vectors have the clip.
    pub fn knows(&self, clip: &str) -> bool {
        self.texts.contains_key(clip)
            || self.frames.contains_key(clip)
            || self.vectors.values().any(|known| known.contains(clip))
    }

    /// Whether there is no clip of any text, frames or vectors.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.frames.is_empty() && self.vectors.is_empty()
    }

    /// The clip that a text's frames are those of: its own, or the one that all its pictures lie in.
    fn frames_of<'a>(&'a self, clip: &'a Clip) -> Option<(&'a str, &'a Shown)> {
        if let Some(shown) = self.frames.get(&clip.clip_id) {
            return Some((&clip.clip_id, shown));
        }
        let folders = clip.utterances.iter().filter_map(|utterance| {
            let mut parts = utterance.frame_path.as_deref()?.rsplit('/').skip(1);
            parts.find(|part| *part != "frames")
        });
        let folders: BTreeSet<&str> = folders.collect();
        let only = folders.first().filter(|_| folders.len() == 1)?;
        self.frames.get(*only).map(|shown| (*only, shown))
    }
}

/// What is odd, and what is missing, in all of it together.
pub(super) fn look(clips: &Clips, report: &mut Report) {
    unmatched(clips, report);
    for (place, clip) in clips.texts.values() {
        if let Some((_, shown)) = clips.frames_of(clip) {
            beyond(clip, place, shown, report);
        }
    }
    for (clip, splits) in &clips.splits {
        if let [(first, there), (other, place), ..] = splits.as_slice() {
            report.add(
                Name::ClipInTwoSplits,
                place,
                Some(clip),
                format!("in `{other}` here, in `{first}` in `{there}`"),
            );
        }
    }
    by_case(clips, report);
    shared(clips, report);
    let needs = [
        (clips.texts.is_empty(), "text", "captions, clips with words or transcripts"),
        (
            clips.frames.is_empty() && report.found.iter().all(|found| found.form != Form::Videos),
            "frames",
            "videos, folders of frames or a frame manifest",
        ),
        (clips.splits.is_empty(), "splits", "a column or a CSV of splits; the stage `split` makes one"),
    ];
    let vectors = clips.vectors.is_empty();
    if !report.found.is_empty() {
        let open = needs.iter().filter(|(open, name, _)| *open && (*name != "frames" || vectors));
        report.missing = open.map(|(_, name, what)| format!("{name}: {what}")).collect();
    }
}

/// Splits that a stage tells apart by a capital letter alone.
fn by_case(clips: &Clips, report: &mut Report) {
    let mut names: BTreeMap<String, BTreeMap<&str, (&str, &str)>> = BTreeMap::new();
    for (clip, splits) in &clips.splits {
        for (split, place) in splits {
            names.entry(split.to_lowercase()).or_default().entry(split).or_insert((clip, place));
        }
    }
    for alike in names.values().filter(|alike| alike.len() > 1) {
        let all: Vec<String> =
            alike.iter().map(|(split, (clip, place))| format!("`{split}` (clip `{clip}` in `{place}`)")).collect();
        let place = alike.values().next().map_or("", |(_, place)| place);
        report.add(
            Name::SplitsByCase,
            place,
            None,
            format!("{} are different splits to every stage", all.join(" and ")),
        );
    }
}

fn unmatched(clips: &Clips, report: &mut Report) {
    let mut matched = BTreeSet::new();
    for (id, (place, clip)) in &clips.texts {
        match clips.frames_of(clip) {
            Some((frames, _)) => {
                matched.insert(frames);
            }
            None if !clips.frames.is_empty() => report.add(Name::UnmatchedClip, place, Some(id), "text without frames"),
            None => {}
        }
    }
    if !clips.texts.is_empty() {
        for (id, shown) in clips.frames.iter().filter(|(id, _)| !matched.contains(id.as_str())) {
            report.add(Name::UnmatchedClip, &shown.place, Some(id), "frames without text");
        }
    }
    for ((form, place), known) in &clips.vectors {
        let owner: Vec<(&String, &str)> = if *form == Form::Features && !clips.frames.is_empty() {
            clips.frames.iter().map(|(id, shown)| (id, shown.place.as_str())).collect()
        } else {
            clips.texts.iter().map(|(id, (place, _))| (id, place.as_str())).collect()
        };
        if owner.is_empty() {
            continue;
        }
        let (name, ids) = (form.name(), owner.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>());
        for (id, there) in owner.iter().filter(|(id, _)| !known.contains(*id)) {
            report.add(Name::UnmatchedClip, there, Some(id), format!("not among the {name} of `{place}`"));
        }
        for id in known.iter().filter(|id| !ids.contains(id)) {
            report.add(Name::UnmatchedClip, place, Some(id), format!("{name} without text or frames"));
        }
    }
}

/// Words and turns behind the last frame.
fn beyond(clip: &Clip, place: &str, shown: &Shown, report: &mut Report) {
    let mut frames = shown.times.clone();
    frames.sort_by(f64::total_cmp);
    let Some(end) = alignment::end(&frames) else { return };
    let mut cut = clip.clone();
    times::cut(&mut cut.utterances, end);
    let words = cut.utterances.iter().flat_map(|utterance| &utterance.words);
    let late: Vec<&str> =
        words.filter(|word| word.fault == Some(Fault::BeyondClip)).map(|word| word.text.as_str()).collect();
    let turns = clip.utterances.iter().filter(|utterance| utterance.start.is_some_and(|start| start > end)).count();
    let message = match late.first() {
        Some(first) => {
            format!("{} words lie behind the end of the frames at {end:.2} s, the first is `{first}`", late.len())
        }
        None if turns > 0 => format!("{turns} turns begin behind the end of the frames at {end:.2} s"),
        None => return,
    };
    report.add(Name::TimeBeyondClip, place, Some(&clip.clip_id), message);
}

/// Groups, sessions and persons in two splits.
fn shared(clips: &Clips, report: &mut Report) {
    type Owners<'a> = BTreeMap<(Name, String), BTreeMap<&'a str, &'a str>>;
    let mut owners: Owners = BTreeMap::new();
    for (clip, splits) in &clips.splits {
        let mut own = Vec::new();
        if let Some(recording) = Recording::of(clip) {
            own.push((Name::SessionInTwoSplits, recording.session()));
            own.push((Name::PersonInTwoSplits, recording.person()));
        }
        let sessions: Vec<String> = own.iter().map(|(_, name)| name.clone()).collect();
        let groups = clips.groups.get(clip).into_iter().flatten().filter(|group| !sessions.contains(group));
        own.extend(groups.map(|group| (Name::GroupInTwoSplits, group.clone())));
        for key in own {
            let known = owners.entry(key).or_default();
            for (split, _) in splits {
                known.entry(split).or_insert(clip);
            }
        }
    }
    for ((name, what), splits) in owners.iter().filter(|(_, splits)| splits.len() > 1) {
        let clips: BTreeSet<&str> = splits.values().copied().collect();
        if clips.len() < 2 {
            continue;
        }
        let listed: Vec<String> = splits.iter().map(|(split, clip)| format!("clip `{clip}` in `{split}`")).collect();
        report.add(*name, what, None, listed.join(", "));
    }
}
