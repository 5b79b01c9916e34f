//! Frames out of real video files. These tests need the `ffmpeg` program and fail without it, so they are not part of the
//! default suite: `cargo test --release --test video -- --ignored`.

use std::path::Path;
use std::process::Command;

use soctok::stages::{Context, Input, Inputs, Stage, Summary, extract_frames};
use soctok::vision::frames::{Manifest, Picture, Reader};

/// Makes a clip whose frame number N stands in the picture as 8 blocks of 16 × 16 pixels, white for a 1 bit, lowest bit
/// at the left. `filter` may drop frames, which leaves gaps in time.
fn counter_clip(path: &Path, rate: &str, seconds: f64, filter: &str) {
    let source = format!(
        "nullsrc=s=128x16:r={rate}:d={seconds},geq=lum='255*mod(floor(N/pow(2,floor(X/16))),2)':cb=128:cr=128{filter}"
    );
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", &source, "-fps_mode", "vfr", "-c:v", "mpeg4", "-q:v", "2"])
        .arg(path)
        .output()
        .expect("this test needs the program ffmpeg: `apt-get install ffmpeg`");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn number_in(picture: &Picture) -> usize {
    let Picture::Image(image) = picture else { panic!("not an image") };
    let (width, height) = (image.width, image.height);
    (0..8)
        .map(|bit| {
            let pixel = (height / 2 * width + (2 * bit + 1) * width / 16) * 3;
            usize::from(image.values[pixel] > 127) << bit
        })
        .sum()
}

/// Clip id, time and burnt-in number of each frame.
fn extract(videos: &Path, settings: serde_json::Value) -> (Vec<(String, f64, usize)>, Summary, tempfile::TempDir) {
    let mut settings = settings;
    settings["videos"] = "data:videos".into();
    let config: extract_frames::Config = serde_json::from_value(settings).unwrap();
    let mut inputs = Inputs::default();
    inputs.insert("videos", Input { reference: "data:videos".into(), path: videos.into(), digest: String::new() });
    let out = tempfile::tempdir().unwrap();
    let summary = extract_frames::ExtractFrames::run(&config, &inputs, &Context::plain(out.path(), "cpu")).unwrap();
    let manifest = Manifest::load(out.path()).unwrap();
    let mut reader = Reader::new(&manifest);
    let frames = manifest
        .frames
        .iter()
        .enumerate()
        .map(|(place, frame)| (frame.clip_id.clone(), frame.t_sec, number_in(&reader.read(place).unwrap())));
    (frames.collect(), summary, out)
}

fn numbers(frames: &[(String, f64, usize)]) -> Vec<usize> {
    frames.iter().map(|frame| frame.2).collect()
}

#[test]
#[ignore = "needs ffmpeg"]
fn the_frame_at_t_is_the_last_one_shown_at_or_before_t() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("counter.mp4");
    for (rate, fps, expected) in [
        // ffmpeg's own rounding gives 7, 22, 37, … here: a quarter of a second late.
        ("30", 2.0, vec![0, 15, 30, 45, 60, 75, 90]),
        // Frame n is shown from n · 1001 / 30000 s on: at 0.5 s the 14th, not the 15th.
        ("30000/1001", 2.0, vec![0, 14, 29, 44, 59, 74, 89]),
        ("10", 2.5, vec![0, 4, 8, 12, 16, 20, 24, 28]),
        ("10", 1.0, vec![0, 10, 20, 30]),
        // More frames than the video has: each stays until the next.
        ("2", 4.0, vec![0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
    ] {
        counter_clip(&clip, rate, if rate == "2" { 3.0 } else { 3.2 }, "");
        let (frames, ..) = extract(&clip, serde_json::json!({ "fps": fps }));
        assert_eq!(numbers(&frames), expected, "{rate} frames per second, {fps} taken");
        for (place, frame) in frames.iter().enumerate() {
            assert_eq!((frame.0.as_str(), frame.1), ("counter", (place as f64 / fps * 1e6).round() / 1e6));
        }
    }
}

#[test]
#[ignore = "needs ffmpeg"]
fn gaps_in_time_show_the_frame_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("gaps.mp4");
    // Of every 10 frames only the first 3 are kept: 0 1 2 10 11 12 20 …, at their own times.
    counter_clip(&clip, "30", 3.2, ",select='lt(mod(n,10),3)'");
    let (frames, ..) = extract(&clip, serde_json::json!({ "fps": 5.0 }));
    assert_eq!(numbers(&frames)[..10], [0, 2, 12, 12, 22, 30, 32, 42, 42, 52]);
}

#[test]
#[ignore = "needs ffmpeg"]
fn long_videos_are_cut_and_may_end_before_the_last_time() {
    let folder = tempfile::tempdir().unwrap();
    counter_clip(&folder.path().join("a.mp4"), "10", 7.7, "");
    counter_clip(&folder.path().join("b.avi"), "10", 0.7, "");
    counter_clip(&folder.path().join("c.mkv"), "10", 7.0, "");
    let settings = serde_json::json!({ "fps": 2.0, "clip_seconds": 3.0, "size": 32 });
    let (frames, summary, out) = extract(folder.path(), settings);
    let of = |clip: &str| {
        let own = frames.iter().filter(|frame| frame.0 == clip);
        own.map(|frame| (frame.1, frame.2)).collect::<Vec<_>>()
    };
    assert_eq!(of("a_0"), [(0.0, 0), (0.5, 5), (1.0, 10), (1.5, 15), (2.0, 20), (2.5, 25)]);
    assert_eq!(of("a_1")[..2], [(0.0, 30), (0.5, 35)]);
    // Ends at 7.7 s: 6.0, 6.5, 7.0 and 7.5 are there, which is at least half a clip.
    assert_eq!(of("a_2"), [(0.0, 60), (0.5, 65), (1.0, 70), (1.5, 75)]);
    assert_eq!(of("b_0"), [(0.0, 0), (0.5, 5)]);
    // 6.0 and 6.5 of 7.0 s are less than half a clip.
    assert_eq!(of("c_2"), []);
    assert!(!out.path().join("c_2").exists());
    let figure = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(["videos", "clips", "frames", "frames_left_out"].map(figure), [3, 6, 30, 2]);
    let manifest = Manifest::load(out.path()).unwrap();
    assert!(manifest.frames.iter().all(|frame| frame.clip_id.starts_with(frame.group.as_deref().unwrap())));
    let Picture::Image(image) = Reader::new(&manifest).read(0).unwrap() else { panic!("not an image") };
    assert_eq!((image.width, image.height), (256, 32));

    let settings = serde_json::json!({ "fps": 2.0, "clip_seconds": 3.0, "clips_per_video": 1 });
    let (frames, ..) = extract(folder.path(), settings);
    assert_eq!(frames.iter().map(|frame| frame.0.as_str()).collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[test]
#[ignore = "needs ffmpeg"]
fn two_extractions_give_the_same_bytes_and_a_broken_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("counter.mp4");
    counter_clip(&clip, "25", 2.0, "");
    let bytes = || {
        let (_, _, out) = extract(&clip, serde_json::json!({ "fps": 3.0 }));
        let mut files: Vec<_> = walkdir::WalkDir::new(out.path()).sort_by_file_name().into_iter().flatten().collect();
        files.retain(|file| file.file_type().is_file());
        files.iter().map(|file| std::fs::read(file.path()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(), bytes());
    std::fs::write(&clip, "this is no video").unwrap();
    let taken = soctok::vision::video::frames("ffmpeg", &clip, 1.0, |_, _| Ok(true));
    let message = taken.unwrap_err().to_string();
    assert!(message.contains("counter.mp4` cannot be decoded by `ffmpeg`"), "{message}");
}
