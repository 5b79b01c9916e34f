//! What a folder of somebody's data holds: `soctok data check`.
//!
//! An experiment names its inputs and stops at the first thing that it cannot use. This room works the other way round:
//! given a folder of which nothing is known, it looks for every form that an experiment could take ([`Form`]), joins what
//! it finds by clip, and tells all that is odd at once. It reads through the readers of [`crate::social`] and
//! [`crate::vision`], knows no experiment, and changes nothing.

mod frames;
mod joined;
mod judgments;
mod survey;
mod tables;
mod text;
mod vectors;

use std::path::Path;

use serde::Serialize;

/// How to look.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Frames per second of folders of frames, whose files tell no times.
    pub fps: f64,
    /// Read of pictures only the beginning: finds no damage further on and no clip that stands twice under two names.
    pub quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fps: 1.0, quick: false }
    }
}

/// A form in which data comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Video files.
    Videos,
    /// Folders of images, one per clip.
    FrameFolders,
    /// A CSV of frames with their times.
    FrameManifest,
    /// A captions CSV.
    Captions,
    /// `transcripts.jsonl`: a clip per line.
    Clips,
    /// Transcripts in the shapes of other projects.
    Transcripts,
    /// A vector per frame: `features.npy` and `frames.csv`.
    Features,
    /// Scene packs of ours.
    Packs,
    /// Scene packs of the original project.
    OriginalPacks,
    /// A CSV of clips and their splits.
    Splits,
    /// Human judgments: triplets or a matrix.
    Judgments,
}

impl Form {
    /// As it stands in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Videos => "videos",
            Self::FrameFolders => "frame folders",
            Self::FrameManifest => "frame manifest",
            Self::Captions => "captions",
            Self::Clips => "clips with words",
            Self::Transcripts => "transcripts",
            Self::Features => "features",
            Self::Packs => "scene packs",
            Self::OriginalPacks => "the original's scene packs",
            Self::Splits => "splits",
            Self::Judgments => "judgments",
        }
    }

    /// The setting that takes it.
    pub fn taken_by(self) -> &'static str {
        match self {
            Self::Videos => "`extract_frames.videos`",
            Self::FrameFolders => "`frame_manifest.folder`",
            Self::FrameManifest => "`encode_frames.frames`",
            Self::Captions | Self::Clips | Self::Transcripts => "`text` of `scene_packs` and later stages",
            Self::Features => "`scene_packs.features`",
            Self::Packs => "`packs` of later stages",
            Self::OriginalPacks => "`import_packs.folder`",
            Self::Splits => "`splits` of later stages",
            Self::Judgments => "`rsa.human`",
        }
    }
}

/// Something that can be used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// Its form.
    pub form: Form,
    /// Where it lies, relative to the folder; `.` is the folder itself.
    pub place: String,
    /// How many clips it has (videos: files).
    pub clips: usize,
    /// How many frames, words, vectors or trials, in words.
    pub size: String,
}

/// Kinds of oddities. Their names are those of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// A file that has the look of an input and cannot be read.
    UnreadableFile,
    /// A table that would be an input if its columns had other names or separators.
    UnknownColumns,
    /// A table with a header and nothing below it.
    EmptyTable,
    /// A picture that cannot be decoded.
    UnreadableImage,
    /// A file that a table names and that is not there.
    MissingFile,
    /// A clip that text, frames or vectors have and the others lack.
    UnmatchedClip,
    /// Frames whose order by time and order by place or name differ.
    FramesOutOfOrder,
    /// Words or turns behind the last frame of their clip.
    TimeBeyondClip,
    /// Vectors that are all but the same for every clip.
    NearConstantFeatures,
    /// Vectors of zeros alone, which stand for frames that were not read.
    ZeroVectors,
    /// Splits whose names differ in capital letters alone.
    SplitsByCase,
    /// A clip in two splits.
    ClipInTwoSplits,
    /// A group with clips in two splits.
    GroupInTwoSplits,
    /// A session with clips in two splits.
    SessionInTwoSplits,
    /// A person with clips in two splits.
    PersonInTwoSplits,
    /// Words without times among words with times.
    MissingWordTimes,
    /// Words or turns that end before they begin.
    ReversedTimes,
    /// Words that begin before the word before them ends.
    OverlappingWords,
    /// Words outside their turn, before the clip or before the word before them; turns out of order.
    MistimedWords,
    /// One clip under one id twice, or the same pictures under two ids.
    DuplicateClip,
    /// One caption of a clip twice.
    DuplicateCaption,
    /// Text that ends in white space.
    TrailingSpace,
    /// A clip without a word.
    EmptyTranscript,
    /// Parts of speech that are not universal ones.
    ForeignTags,
    /// Odd-one-out trials that show a clip twice, or whose odd one is none of the three.
    OddTrials,
}

impl Name {
    /// As it stands in the report.
    pub fn text(self) -> &'static str {
        match self {
            Self::UnreadableFile => "unreadable_file",
            Self::UnknownColumns => "unknown_columns",
            Self::EmptyTable => "empty_table",
            Self::UnreadableImage => "unreadable_image",
            Self::MissingFile => "missing_file",
            Self::UnmatchedClip => "unmatched_clip",
            Self::FramesOutOfOrder => "frames_out_of_order",
            Self::TimeBeyondClip => "time_beyond_clip",
            Self::NearConstantFeatures => "near_constant_features",
            Self::ZeroVectors => "zero_vectors",
            Self::SplitsByCase => "splits_by_case",
            Self::ClipInTwoSplits => "clip_in_two_splits",
            Self::GroupInTwoSplits => "group_in_two_splits",
            Self::SessionInTwoSplits => "session_in_two_splits",
            Self::PersonInTwoSplits => "person_in_two_splits",
            Self::MissingWordTimes => "missing_word_times",
            Self::ReversedTimes => "reversed_times",
            Self::OverlappingWords => "overlapping_words",
            Self::MistimedWords => "mistimed_words",
            Self::DuplicateClip => "duplicate_clip",
            Self::DuplicateCaption => "duplicate_caption",
            Self::TrailingSpace => "trailing_space",
            Self::EmptyTranscript => "empty_transcript",
            Self::ForeignTags => "foreign_tags",
            Self::OddTrials => "odd_trials",
        }
    }
}

/// Something odd: what, where, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Odd {
    /// What kind of oddity.
    pub name: Name,
    /// The file or folder, relative to the folder that is checked.
    pub place: String,
    /// The clip, where it is one clip's.
    pub clip: Option<String>,
    /// What of it, in a sentence.
    pub message: String,
}

/// All that was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What can be used, by form and place.
    pub found: Vec<Found>,
    /// What an experiment with social tokens needs and the folder lacks.
    pub missing: Vec<String>,
    /// What is odd, by kind and place.
    pub odd: Vec<Odd>,
    /// What is worth knowing and not odd.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds an oddity.
    fn add(&mut self, name: Name, place: &str, clip: Option<&str>, message: impl Into<String>) {
        self.odd.push(Odd { name, place: place.to_owned(), clip: clip.map(str::to_owned), message: message.into() });
    }
}

/// Looks at everything below `folder`.
/// What cannot be read is an oddity of the report.
pub fn check(folder: &Path, options: &Options) -> Report {
    let mut report = Report::default();
    let survey = survey::Survey::of(folder);
    let mut clips = joined::Clips::default();
    text::look(&survey, &mut clips, &mut report);
    frames::look(&survey, options, &mut clips, &mut report);
    vectors::look(&survey, &mut clips, &mut report);
    judgments::look(&survey, &clips, &mut report);
    tables::look(&survey, &clips, &mut report);
    joined::look(&clips, &mut report);
    report.found.sort_by(|a, b| (a.form, &a.place).cmp(&(b.form, &b.place)));
    report.odd.sort();
    report.odd.dedup();
    report
}
