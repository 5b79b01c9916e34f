//! Video files through the `ffmpeg` program.
//!
//! The frame at time t is the last one shown at or before t; before the first frame it is the first. ffmpeg's `fps`
//! filter gives that only with `round=up`: by default it takes the frame that is nearest to the slot's middle, on average
//! a quarter of the slot late at two frames per second.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::image::Rgb;
use crate::stages::{Result, StageError};

/// The program, looked up in `PATH`.
pub const PROGRAM: &str = "ffmpeg";

const INSTALL: &str = "install it: `apt-get install ffmpeg` (Debian, Ubuntu), `dnf install ffmpeg` (Fedora), \
                       `brew install ffmpeg` (macOS), `conda install -c conda-forge ffmpeg`";

/// Endings of the files that are taken from a folder of videos.
pub const ENDINGS: [&str; 14] =
    ["avi", "flv", "m4v", "mjpeg", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts", "webm", "wmv"];

/// Decodes the frames at k / `fps` seconds, k = 0, 1, …, up to the end of the video (none at or after it), and hands each
/// to `take` with its k. `take` says whether to go on. Colours are RGB, the size is the video's.
pub fn frames(program: &str, video: &Path, fps: f64, mut take: impl FnMut(usize, Rgb) -> Result<bool>) -> Result<()> {
    // Bit-exact scaling flags: the same colours on every machine.
    let filter = format!(
        "fps=fps={fps}:round=up:start_time=0,scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact,\
         format=rgb24"
    );
    let mut url = std::ffi::OsString::from("file:");
    url.push(video);
    let spawned = Command::new(program)
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(url)
        .args(["-map", "0:v:0", "-vf", &filter, "-c:v", "ppm", "-f", "image2pipe", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut running = Running(spawned.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            StageError::hint(format!("the program `{program}`, which decodes videos, is not installed"), INSTALL)
        }
        _ => StageError::new(format!("`{program}` cannot be started: {error}")),
    })?);
    let (Some(out), Some(messages)) = (running.0.stdout.take(), running.0.stderr.take()) else {
        return Err(StageError::new(format!("`{program}` has no output")));
    };
    let messages = std::thread::spawn(move || {
        let lines = BufReader::new(messages).lines().map_while(std::result::Result::ok);
        // A damaged file can give a message per frame: the first few tell enough.
        let mut kept = Vec::new();
        lines.for_each(|line| {
            if kept.len() < 5 {
                kept.push(line);
            }
        });
        kept
    });
    let mut out = BufReader::with_capacity(1 << 20, out);
    let mut count = 0;
    while let Some(image) = read_ppm(&mut out).map_err(StageError::io(video))? {
        if !take(count, image)? {
            return Ok(());
        }
        count += 1;
    }
    let status = running.0.wait().map_err(StageError::io(video))?;
    let messages = messages.join().unwrap_or_default().join("; ");
    if !status.success() || count == 0 {
        let said = if messages.is_empty() { format!("it ended with {status} and no frame") } else { messages };
        return Err(StageError::hint(
            format!("`{}` cannot be decoded by `{program}`: {said}", video.display()),
            "check that it is a video and whole",
        ));
    }
    if !messages.is_empty() {
        tracing::warn!("{}: {program}: {messages}", video.display());
    }
    Ok(())
}

/// Ends the program when its output is not wanted any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The next image of a stream of binary PPM files; `None` at its end.
fn read_ppm(stream: &mut impl BufRead) -> std::io::Result<Option<Rgb>> {
    let bad =
        |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{what} in the decoder's output"));
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    // `P6\nWIDTH HEIGHT\n255\n`, as ffmpeg writes it.
    let mut line = || -> std::io::Result<String> {
        let mut text = String::new();
        stream.take(64).read_line(&mut text)?;
        Ok(text.trim_end().to_owned())
    };
    let (mark, size, depth) = (line()?, line()?, line()?);
    let size = size.split_once(' ').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    let Some((width, height)) = size.filter(|_| mark == "P6" && depth == "255") else {
        return Err(bad("an unknown image header"));
    };
    let mut values = vec![0; width * height * 3];
    stream.read_exact(&mut values)?;
    Ok(Some(Rgb::new(width, height, values)))
}

/// The videos that `path` stands for, each with a name: a file, or every video file below a folder, sorted. Names are
/// paths without ending, `/` written `_`; two videos of one name are an error.
pub fn list(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let name = |relative: &Path| {
        let parts = relative.with_extension("");
        let parts: Vec<String> =
            parts.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        parts.join("_")
    };
    if !path.is_dir() {
        return match path.file_name() {
            Some(file) if path.is_file() => Ok(vec![(name(Path::new(file)), path.to_owned())]),
            _ => {
                Err(StageError::hint(format!("there is no `{}`", path.display()), "give a video or a folder of videos"))
            }
        };
    }
    let mut videos: Vec<(String, PathBuf)> = Vec::new();
    for entry in walkdir::WalkDir::new(path).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| StageError::new(format!("`{}`: {error}", path.display())))?;
        let ending = entry.path().extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if !entry.file_type().is_file() || !ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
            continue;
        }
        let video = name(entry.path().strip_prefix(path).unwrap_or(entry.path()));
        if let Some((_, first)) = videos.iter().find(|(known, _)| *known == video) {
            return Err(StageError::hint(
                format!("`{}` and `{}` would both be called `{video}`", first.display(), entry.path().display()),
                "rename one of them",
            ));
        }
        videos.push((video, entry.into_path()));
    }
    if videos.is_empty() {
        return Err(StageError::hint(
            format!("no video lies below `{}`", path.display()),
            format!("videos end in {}", ENDINGS.map(|ending| format!(".{ending}")).join(", ")),
        ));
    }
    Ok(videos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_program_the_message_says_how_to_install_it() {
        let error = frames("no-such-ffmpeg", Path::new("a.mp4"), 1.0, |_, _| Ok(true)).unwrap_err().to_string();
        assert!(error.contains("`no-such-ffmpeg`") && error.contains("hint: install it: `apt-get install"), "{error}");
    }

    #[test]
    fn images_follow_each_other_in_the_stream() {
        let mut bytes: &[u8] = b"P6\n2 1\n255\nabcdefP6\n1 1\n255\nxyz";
        assert_eq!(read_ppm(&mut bytes).unwrap(), Some(Rgb::new(2, 1, b"abcdef".to_vec())));
        assert_eq!(read_ppm(&mut bytes).unwrap(), Some(Rgb::new(1, 1, b"xyz".to_vec())));
        assert_eq!(read_ppm(&mut bytes).unwrap(), None);
        let mut cut: &[u8] = b"P6\n2 1\n255\nabc";
        assert!(read_ppm(&mut cut).is_err());
        let mut foreign: &[u8] = b"GIF89a";
        assert!(read_ppm(&mut foreign).is_err());
    }

    #[test]
    fn a_folder_gives_its_videos_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("day")).unwrap();
        for file in ["b.mp4", "day/a.AVI", "notes.txt"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let names: Vec<String> = list(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "day_a"]);
        assert_eq!(list(&folder.path().join("b.mp4")).unwrap()[0].0, "b");
        std::fs::write(folder.path().join("b.mkv"), "").unwrap();
        assert!(list(folder.path()).unwrap_err().to_string().contains("would both be called `b`"));
        assert!(list(&folder.path().join("none")).is_err());
    }
}
