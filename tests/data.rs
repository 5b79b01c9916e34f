//! `soctok data check` through the binary: simulated data, a Seamless-shaped folder with ten planted defects, captions
//! with four more, an empty folder.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use soctok::npy::{self, Array};
use soctok::stats::random::Streams;
use soctok::vision::image::Rgb;
use support::{Folder, text};

/// Runs `data check` with `--json`; gives the report and the exit code.
fn checked(folder: &Folder, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = folder.soctok(&[&["data", "check"][..], arguments, &["--json"]].concat());
    let stdout = text(&output.stdout);
    let report = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"));
    (report, output.status.code())
}

/// (name, place, clip) of every oddity.
fn odd(report: &Value) -> Vec<(String, String, String)> {
    let field = |odd: &Value, name: &str| odd[name].as_str().unwrap_or_default().to_owned();
    let odd = report["odd"].as_array().unwrap().iter();
    odd.map(|odd| (field(odd, "name"), field(odd, "place"), field(odd, "clip"))).collect()
}

/// (form, place, clips) of everything found.
fn found(report: &Value) -> Vec<(String, String, u64)> {
    let found = report["found"].as_array().unwrap().iter();
    let text = |found: &Value, name: &str| found[name].as_str().unwrap().to_owned();
    found.map(|found| (text(found, "form"), text(found, "place"), found["clips"].as_u64().unwrap())).collect()
}

#[test]
fn the_data_of_the_quickstart_is_clean() {
    let folder = Folder::new();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/quickstart.toml");
    let quickstart = std::fs::read_to_string(quickstart).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    folder.write("experiment.toml", &quickstart.replace("\"assets/", &format!("\"{}/", assets.display())));
    folder.ok(&["run", "experiment.toml", "--only", "packs", "--set", "clips.train_clips=200"]);
    let steps = std::fs::read_dir(folder.path().join("soctok-store/steps")).unwrap();
    let names: Vec<String> = steps.map(|step| step.unwrap().file_name().into_string().unwrap()).collect();
    let step = |kind: &str| {
        let name = names.iter().find(|name| name.starts_with(kind)).unwrap();
        format!("soctok-store/steps/{name}")
    };
    let clips = step("simulate_clips");
    let (report, code) = checked(&folder, &[&clips]);
    assert_eq!((odd(&report), code), (vec![], Some(0)), "{report:#}");
    let forms = [
        ("frame_manifest", "manifest.csv", 500),
        ("clips", "transcripts.jsonl", 500),
        ("judgments", "rsm.csv", 60),
        ("judgments", "triplets.csv", 0),
    ];
    let forms = forms.map(|(form, place, clips)| (form.to_owned(), place.to_owned(), clips));
    assert_eq!(found(&report), forms);
    let stdout = folder.ok(&["data", "check", &clips]);
    assert!(stdout.contains("clips with words") && stdout.contains("for `encode_frames.frames`"), "{stdout}");
    assert!(stdout.ends_with("nothing odd\n"), "{stdout}");

    // Text, features and packs together: the whole store's steps are joined by clip.
    let (report, code) = checked(&folder, &["soctok-store/steps"]);
    assert_eq!((odd(&report), code), (vec![], Some(0)), "{report:#}");
    let forms: Vec<String> = found(&report).into_iter().map(|(form, ..)| form).collect();
    assert_eq!(forms, ["frame_manifest", "clips", "features", "packs", "judgments", "judgments"]);
}

/// A picture that no other seed gives.
fn picture(path: &Path, seed: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut stream = Streams::new(0, "picture").named(seed);
    let values = (0..20 * 16 * 3).map(|_| (stream.next_u32() >> 24) as u8).collect();
    Rgb::new(20, 16, values).save_png(path).unwrap();
}

/// A word every half second from 0.2 s on, each 0.3 s long.
fn words(count: usize) -> Vec<Value> {
    (0..count)
        .map(|place| {
            let start = 0.2 + place as f64 * 0.5;
            json!({"word": format!("word{place}"), "start": start, "end": start + 0.3})
        })
        .collect()
}

fn transcript(folder: &Folder, split: &str, clip: &str, words: &[Value]) {
    let text = json!({"id": clip, "metadata:transcript": [{"words": words}], "metadata:vad": []});
    folder.write(&format!("seamless/{split}/{clip}/transcripts/{clip}.json"), &text.to_string());
}

fn frames(folder: &Folder, split: &str, clip: &str, count: usize) {
    for frame in 1..=count {
        let path = folder.path().join(format!("seamless/{split}/{clip}/frames/frame_{frame:04}.png"));
        picture(&path, &format!("{clip} {frame}"));
    }
}

/// Clips as the original's scripts expect them, `<split>/<clip>/{frames,transcripts}`, at one frame per second.
const CLIPS: [(&str, &str); 12] = [
    ("train", "V00_S0001_I00000001_P0001"),
    ("train", "V00_S0001_I00000001_P0002"),
    ("train", "V00_S0001_I00000002_P0001"),
    ("train", "V00_S0001_I00000002_P0002"),
    ("train", "V00_S0002_I00000003_P0003"),
    ("train", "V00_S0002_I00000003_P0004"),
    ("train", "V00_S0002_I00000004_P0003"),
    ("train", "V00_S0002_I00000004_P0004"),
    ("test", "V00_S0003_I00000005_P0005"),
    ("test", "V00_S0003_I00000005_P0006"),
    ("test", "V00_S0003_I00000006_P0005"),
    ("test", "V00_S0003_I00000006_P0006"),
];

/// Features of the clips that are told apart (`spread`) or hardly.
fn features(folder: &Folder, spread: f32) {
    let mut table = "clip_id,split,t_sec,frame_path\n".to_owned();
    let mut values = Vec::new();
    for (number, (split, clip)) in CLIPS.iter().enumerate() {
        table += &format!("{clip},{split},0,{clip}/frame_0001.png\n");
        values.extend((0..4).map(|place| if place == number % 4 { 1.0 + spread } else { 1.0 }));
    }
    folder.write("seamless/features/frames.csv", &table);
    let path = folder.path().join("seamless/features/features.npy");
    npy::write(&path, &Array::new([CLIPS.len(), 4], values)).unwrap();
}

fn seamless() -> Folder {
    let folder = Folder::new();
    for (split, clip) in CLIPS {
        transcript(&folder, split, clip, &words(6));
        frames(&folder, split, clip, 4);
    }
    features(&folder, 1.0);
    folder
}

#[test]
fn ten_planted_defects_are_told_by_name_and_place() {
    let folder = seamless();
    let (report, code) = checked(&folder, &["seamless"]);
    assert_eq!((odd(&report), code), (vec![], Some(0)), "{report:#}");

    let clip = |number: usize| CLIPS[number];
    let file = |number: usize| format!("{0}/{1}/transcripts/{1}.json", clip(number).0, clip(number).1);
    let of = |number: usize| clip(number).1.to_owned();
    let change = |number: usize, change: &dyn Fn(&mut Vec<Value>)| {
        let mut words = words(6);
        change(&mut words);
        transcript(&folder, clip(number).0, clip(number).1, &words);
    };
    let mut planted = Vec::new();
    // 1. Text whose frames are missing.
    std::fs::remove_dir_all(folder.path().join(format!("seamless/train/{}/frames", of(0)))).unwrap();
    planted.push(("unmatched_clip", file(0), of(0)));
    // The features are of frames that are no longer there.
    planted.push(("unmatched_clip", "features".to_owned(), of(0)));
    // 2. A frame that is missing between others.
    std::fs::remove_file(folder.path().join(format!("seamless/train/{}/frames/frame_0002.png", of(1)))).unwrap();
    planted.push(("frames_out_of_order", format!("train/{}/frames", of(1)), of(1)));
    // 3. A word behind the end of the clip.
    change(2, &|words| words.push(json!({"word": "late", "start": 50.0, "end": 50.5})));
    planted.push(("time_beyond_clip", file(2), of(2)));
    // 4. Features that are all but constant.
    features(&folder, 1e-3);
    planted.push(("near_constant_features", "features".to_owned(), String::new()));
    // 5. A person of the training clips in a test clip of another session.
    let again = "V00_S0003_I00000007_P0004";
    transcript(&folder, "test", again, &words(6));
    frames(&folder, "test", again, 4);
    planted.push(("person_in_two_splits", "P0004".to_owned(), String::new()));
    // 6. A word without times.
    change(3, &|words| (words[2]["start"], words[2]["end"]) = (Value::Null, Value::Null));
    planted.push(("missing_word_times", file(3), of(3)));
    // 7. A word that ends before it begins.
    change(4, &|words| words[3]["end"] = json!(1.2));
    planted.push(("reversed_times", file(4), of(4)));
    // 8. A word that begins before the one before it ends.
    change(5, &|words| words[3]["start"] = json!(1.3));
    planted.push(("overlapping_words", file(5), of(5)));
    // 9. A picture that was cut off.
    let cut = folder.path().join(format!("seamless/train/{}/frames/frame_0003.png", of(6)));
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    planted.push(("unreadable_image", format!("train/{}/frames", of(6)), of(6)));
    // 10. A transcript without a word.
    transcript(&folder, "train", clip(7).1, &[]);
    planted.push(("empty_transcript", file(7), of(7)));

    let (report, code) = checked(&folder, &["seamless"]);
    assert_eq!(code, Some(1));
    // The clip of the fifth defect has no features, which is told too.
    planted.push(("unmatched_clip", format!("test/{again}/frames"), again.to_owned()));
    let mut expected: Vec<(String, String, String)> =
        planted.into_iter().map(|(name, place, clip)| (name.to_owned(), place, clip)).collect();
    let mut told = odd(&report);
    expected.sort();
    told.sort();
    assert_eq!(told, expected, "{report:#}");

    let output = folder.soctok(&["data", "check", "seamless"]);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(stdout.contains("missing_word_times (1)") && stdout.contains("1 of 6 words have no time"), "{stdout}");
    assert!(stdout.contains("word 3 of utterance 0, `word3`, ends before it begins"), "{stdout}");
    assert!(stdout.contains("clip `V00_S0002_I00000003_P0004` in `train`") || stdout.contains("P0004"), "{stdout}");
    assert!(stderr.contains("12 things are odd in `seamless`"), "{stderr}");
    // The beginning of a cut-off picture is whole.
    let (quick, _) = checked(&folder, &["seamless", "--quick"]);
    assert!(odd(&quick).iter().all(|(name, ..)| name != "unreadable_image"), "{quick:#}");
}

#[test]
fn captions_splits_and_copies_are_looked_at_too() {
    let folder = Folder::new();
    let captions = "video_name,caption_index,caption\na.mp4,1,two men talk \na.mp4,2,two men talk\nb.mp4,1,a dog\n";
    folder.write("mit/captions.csv", captions);
    folder.write("mit/clips.csv", "clip_id,split,group\na,train,g\nb,test,g\n");
    let mut manifest = "split,clip_id,frame_path,t_sec\n".to_owned();
    for clip in ["a", "b"] {
        for frame in 0..2 {
            picture(&folder.path().join(format!("mit/frames/{clip}/frame_{frame}.png")), &format!("same {frame}"));
            manifest += &format!(
                "{},{clip},mit/frames/{clip}/frame_{frame}.png,{}\n",
                if clip == "a" { "val" } else { "test" },
                1 - frame
            );
        }
    }
    manifest += "test,b,mit/frames/b/frame_9.png,5\n";
    folder.write("mit/manifests/all.csv", &manifest);
    let (report, code) = checked(&folder, &["mit"]);
    let mut told = odd(&report);
    told.sort();
    let expected = [
        ("clip_in_two_splits", "clips.csv", "a"),
        ("duplicate_caption", "captions.csv", "a"),
        ("duplicate_clip", "manifests/all.csv", "b"),
        ("frames_out_of_order", "manifests/all.csv", "a"),
        ("frames_out_of_order", "manifests/all.csv", "b"),
        ("group_in_two_splits", "g", ""),
        ("missing_file", "manifests/all.csv", "b"),
        ("trailing_space", "captions.csv", "a"),
    ];
    let expected = expected.map(|(name, place, clip)| (name.to_owned(), place.to_owned(), clip.to_owned()));
    assert_eq!(told, expected, "{report:#}");
    assert_eq!(code, Some(1));
}

#[test]
fn judgments_are_read_whatever_they_are_called() {
    let folder = Folder::new();
    folder.write("mit/captions.csv", "clip_id,caption\na,a dog runs\nb,two men talk\nc,a cat sleeps\nd,a hen\n");
    folder.write("mit/trials.csv", "participant,clip_1,clip_2,clip_3,odd_one\n0,a,b,c,a\n1,b,c,d,c\n");
    folder.write("mit/people.csv", "a,b,c\n1,0.5,0.1\n0.5,1,\n0.1,,1\n");
    folder.write("mit/by_number/clips.csv", "index,clip_id\n0,a\n1,b\n2,c\n");
    folder.write("mit/by_number/rsm.csv", "0,1,2\n1,0.5,0.1\n0.5,1,0\n0.1,0,1\n");
    let (report, code) = checked(&folder, &["mit"]);
    assert_eq!((odd(&report), code), (vec![], Some(0)), "{report:#}");
    let judgments: Vec<(String, u64)> = found(&report)
        .into_iter()
        .filter(|(form, ..)| form == "judgments")
        .map(|(_, place, clips)| (place, clips))
        .collect();
    let expected = [("by_number/rsm.csv", 3), ("people.csv", 3), ("trials.csv", 0)];
    assert_eq!(judgments, expected.map(|(place, clips)| (place.to_owned(), clips)));

    // A stranger as the odd one, a clip twice in a trial, an unknown clip; a matrix that is no square, one that is not
    // symmetric, one with a column twice.
    folder.write("mit/trials.csv", "clip_1,clip_2,clip_3,odd_one\na,b,c,d\na,b,c,a\n");
    folder.write("mit/twice.csv", "clip_1,clip_2,clip_3,odd_one\na,a,b,b\na,b,z,a\n");
    folder.write("mit/people.csv", "a,b,c\n1,0.5,0.1\n0.5,1,0\n");
    folder.write("mit/by_number/rsm.csv", "0,1,2\n1,0.5,0.1\n0.4,1,0\n0.1,0,1\n");
    folder.write("mit/rsm_again.csv", "a,a\n1,0.5\n0.5,1\n");
    let (report, code) = checked(&folder, &["mit"]);
    let expected = [
        ("duplicate_clip", "rsm_again.csv", "a"),
        ("odd_trials", "trials.csv", ""),
        ("odd_trials", "twice.csv", ""),
        ("unmatched_clip", "twice.csv", ""),
        ("unreadable_file", "by_number/rsm.csv", ""),
        ("unreadable_file", "people.csv", ""),
    ];
    let mut told = odd(&report);
    told.sort();
    let expected = expected.map(|(name, place, clip)| (name.to_owned(), place.to_owned(), clip.to_owned()));
    assert_eq!((told, code), (expected.to_vec(), Some(1)), "{report:#}");
    let stdout = text(&folder.soctok(&["data", "check", "mit"]).stdout);
    for told in ["in 1 trials, the first in line 2 (`d`)", "1 of 3 judged clips", "not symmetric", "not a square"] {
        assert!(stdout.contains(told), "{told} in {stdout}");
    }
}

#[test]
fn tables_with_other_columns_are_seen_and_told() {
    let folder = Folder::new();
    folder.write("alone/captions.csv", "clip,caption\na,a dog\n");
    let (report, code) = checked(&folder, &["alone"]);
    let expected = ("unknown_columns".to_owned(), "captions.csv".to_owned(), String::new());
    assert_eq!((odd(&report), code), (vec![expected], Some(1)), "{report:#}");
    folder.write("beside/captions.csv", "clip_id,caption\na,a dog\n");
    folder.write("beside/more.csv", "clip_id;caption\nb;a cat\n");
    folder.write("beside/more.tsv", "clip_id\tcaption\nc\ta hen\n");
    folder.write("beside/loss.csv", "epoch,loss\n1,2.5\n");
    let (report, code) = checked(&folder, &["beside"]);
    let told: Vec<String> = odd(&report).into_iter().map(|(name, place, _)| format!("{name} {place}")).collect();
    assert_eq!((told, code), (vec!["unknown_columns more.csv".into(), "unknown_columns more.tsv".into()], Some(1)));
    let notes = json!(["seen and not understood: loss.csv (columns `epoch`, `loss`)"]);
    assert_eq!(report["notes"], notes, "{report:#}");
    let stdout = text(&folder.soctok(&["data", "check", "beside"]).stdout);
    assert!(stdout.contains("separated by semicolons") && stdout.contains("separated by tabs"), "{stdout}");
    // Nothing that is understood: the file is named all the same.
    folder.write("foreign/loss.csv", "epoch,loss\n1,2.5\n");
    let output = folder.soctok(&["data", "check", "foreign"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("not understood: loss.csv"), "{}", text(&output.stdout));
}

#[test]
fn splits_by_case_tags_of_another_set_open_quotes_and_bare_headers_are_odd() {
    let folder = Folder::new();
    let captions = "clip_id,caption,pos,split\na,a dog runs,DT NN VBZ,Train\nb,two men,NUM NOUN,train\n";
    folder.write("mit/captions.csv", captions);
    folder.write("mit/more/splits.csv", "clip_id,split\n");
    folder.write("mit/more/captions.csv", "clip_id,caption\nc,\"a cat\nd,a hen");
    let (report, code) = checked(&folder, &["mit"]);
    let mut told: Vec<String> = odd(&report).into_iter().map(|(name, place, _)| format!("{name} {place}")).collect();
    told.sort();
    let expected = [
        "empty_table more/splits.csv",
        "foreign_tags captions.csv",
        "splits_by_case captions.csv",
        "unreadable_file more/captions.csv",
    ];
    assert_eq!((told, code), (expected.map(str::to_owned).to_vec(), Some(1)), "{report:#}");
    let stdout = text(&folder.soctok(&["data", "check", "mit"]).stdout);
    for told in ["3 of 5 parts of speech", "the first is `DT`", "opens in line 2", "`Train` (clip `a` in"] {
        assert!(stdout.contains(told), "{told} in {stdout}");
    }
}

#[test]
fn a_folder_with_nothing_in_it_says_what_could_be_there() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    folder.write("other/notes.txt", "no data");
    for name in ["empty", "other"] {
        let output = folder.soctok(&["data", "check", name]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("holds nothing that soctok reads") && stderr.contains("docs/data.md"), "{stderr}");
    }
    let (report, code) = checked(&folder, &["empty"]);
    assert_eq!((code, &report["found"], &report["odd"]), (Some(2), &json!([]), &json!([])));
    let output = folder.soctok(&["data", "check", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("there is no folder `nowhere`"));
}
