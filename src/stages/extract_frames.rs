//! `extract_frames`: videos become frames at a steady rate, and long videos clips of a few seconds.
//!
//! Sampling: the frame at t is the last one shown at or before t ([`crate::vision::video`]); times are k / fps from the
//! start of the video. With `clip_seconds` = c, clip `<video>_<i>` has the frames of i·c <= t < (i + 1)·c, with times from
//! its own start. A last piece with less than half of a clip's frames is left out (unless it is the only one).

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Inputs, Reference, Result, Stage, StageError, Summary};
use crate::vision::frames::{Frame, Manifest};
use crate::vision::image::Rgb;
use crate::vision::video;

/// See the module.
pub struct ExtractFrames;

/// Settings of `extract_frames`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A video file, or a folder with videos at any depth.
    #[schemars(extend("x-accepts" = ["videos"]))]
    pub videos: Reference,
    /// Frames per second to take.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub fps: f64,
    /// Cut videos into clips of this many seconds; a video is one clip when not set.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_seconds: Option<f64>,
    /// Take only the first clips of each video, this many.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub clips_per_video: Option<usize>,
    /// Resize so that the shorter side has this many pixels (bicubic); as in the video when not set.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub size: Option<usize>,
}

fn one() -> f64 {
    1.0
}

impl Stage for ExtractFrames {
    const KIND: &'static str = "extract_frames";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "Takes frames out of videos at a steady rate, and cuts long videos into clips";
    const GIVES: &'static [&'static str] = &["frames"];
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &super::Upstream) {
        if config.clip_seconds.is_none() {
            config.clips_per_video = None;
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        for (name, value) in [("fps", Some(config.fps)), ("clip_seconds", config.clip_seconds)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(StageError::hint(format!("`{name}` is {value}"), "give a number above 0"));
            }
        }
        let videos = video::list(&inputs.get("videos")?.path)?;
        let mut listed = Vec::new();
        let mut left_out = 0;
        for (done, (name, path)) in videos.iter().enumerate() {
            context.progress(done as u64, videos.len() as u64, "video")?;
            let mut cutter = Cutter { config, folder: context.folder(), video: name, clips: Vec::new() };
            video::frames(video::PROGRAM, path, config.fps, |index, image| cutter.take(index, &image))?;
            left_out += cutter.drop_short_end()?;
            listed.extend(cutter.clips.into_iter().flatten());
        }
        context.progress(videos.len() as u64, videos.len() as u64, "video")?;
        Manifest::write(context.folder(), &listed)?;
        let mut summary = Summary::new();
        summary.insert("videos".into(), videos.len().into());
        summary.insert("clips".into(), listed.chunk_by(|a, b| a.clip_id == b.clip_id).count().into());
        summary.insert("frames".into(), listed.len().into());
        summary.insert("frames_left_out".into(), left_out.into());
        Ok(summary)
    }
}

/// Writes the frames of one video into folders of clips.
struct Cutter<'a> {
    config: &'a Config,
    folder: &'a Path,
    video: &'a str,
    clips: Vec<Vec<Frame>>,
}

impl Cutter<'_> {
    /// False when the clips asked for are complete.
    fn take(&mut self, index: usize, image: &Rgb) -> Result<bool> {
        let time = index as f64 / self.config.fps;
        // A frame on the border belongs to the later clip, whatever the rounding of index / fps.
        let place = self.config.clip_seconds.map_or(0, |length| (time / length + 1e-9).floor() as usize);
        if self.config.clips_per_video.is_some_and(|limit| place >= limit) {
            return Ok(false);
        }
        let (clip_id, start) = match self.config.clip_seconds {
            Some(length) => (format!("{}_{place}", self.video), place as f64 * length),
            None => (self.video.to_owned(), 0.0),
        };
        if self.clips.len() <= place {
            self.clips.resize_with(place + 1, Vec::new);
            let folder = self.folder.join(&clip_id);
            std::fs::create_dir_all(&folder).map_err(StageError::io(&folder))?;
        }
        let clip = &mut self.clips[place];
        let path = format!("{clip_id}/frame_{:06}.png", clip.len());
        let file = self.folder.join(&path);
        match self.config.size {
            Some(size) => image.resize_shorter(size)?.save_png(&file)?,
            None => image.save_png(&file)?,
        }
        clip.push(Frame {
            split: String::new(),
            clip_id,
            path,
            t_sec: (time - start).max(0.0),
            group: Some(self.video.to_owned()),
        });
        Ok(true)
    }

    /// Takes back a last clip that ended before half its time; gives its number of frames.
    fn drop_short_end(&mut self) -> Result<usize> {
        let Some(length) = self.config.clip_seconds.filter(|_| self.clips.len() > 1) else { return Ok(0) };
        let short = |clip: &mut Vec<Frame>| (clip.len() as f64) < length * self.config.fps / 2.0;
        let Some(clip) = self.clips.pop_if(short) else { return Ok(0) };
        let folder: PathBuf = self.folder.join(Path::new(&clip[0].path).parent().unwrap_or(Path::new("")));
        std::fs::remove_dir_all(&folder).map_err(StageError::io(&folder))?;
        Ok(clip.len())
    }
}
