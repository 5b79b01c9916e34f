//! A hub on 127.0.0.1: enough of its interface for `hf-hub`, on the standard library only.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the test's user keeps secret.
pub const TOKEN: &str = "hf_TheTokenThatMustNotBeShown0123456789";
/// Where `main` is at first.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where `main` is after [`Server::move_branch`].
pub const OTHER_COMMIT: &str = "76543210fedcba9876543210fedcba9876543210";

#[derive(Default)]
struct State {
    moved: bool,
    /// Request lines, each with its `Authorization` header.
    requests: Vec<(String, Option<String>)>,
}

/// The running server. Its thread ends with the test process.
pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The bytes of a file, told from its name.
pub fn content(name: &str) -> Vec<u8> {
    match name {
        "model.safetensors.index.json" => br#"{"weight_map": {
            "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#
            .to_vec(),
        _ => format!("content of {name}").into_bytes(),
    }
}

/// A file of a repository: `someone/gemma` is the small Gemma 2 of the fixtures.
fn file_of(path: &str, name: &str) -> Vec<u8> {
    if !path.contains("someone/gemma/") {
        return content(name);
    }
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folder = if name == "tokenizer.json" { fixtures } else { fixtures.join("gemma2_tiny") };
    std::fs::read(folder.join(name)).unwrap()
}

/// An endpoint where nobody listens.
pub fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn move_branch(&self) {
        self.state.lock().unwrap().moved = true;
    }

    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.iter().map(|(line, _)| line.clone()).collect()
    }

    /// Whether there were requests and each carried the token.
    pub fn authorized(&self) -> bool {
        let state = self.state.lock().unwrap();
        let expected = format!("Bearer {TOKEN}");
        !state.requests.is_empty() && state.requests.iter().all(|(_, token)| token.as_ref() == Some(&expected))
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found =
            lines[1..].iter().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let authorization = header("authorization");
    let moved = {
        let mut state = state.lock().unwrap();
        state.requests.push((lines[0].clone(), authorization.clone()));
        state.moved
    };
    let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, headers, body) = answer(&path, header("range"), moved, authorization);
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    let _ = stream.write_all(&body);
}

type Answer = (&'static str, Vec<(&'static str, String)>, Vec<u8>);

fn answer(path: &str, range: Option<String>, moved: bool, authorization: Option<String>) -> Answer {
    let not_found = || ("404 Not Found", Vec::new(), b"{}".to_vec());
    for (part, status) in [("401", "401 Unauthorized"), ("403", "403 Forbidden"), ("500", "500 Internal Server Error")]
    {
        if path.contains(part) && !path.contains("resolve") {
            return (status, Vec::new(), authorization.unwrap_or_default().into_bytes());
        }
    }
    if path.contains("broken/echo") {
        // A server that shows the token in what should be JSON.
        return ("200 OK", Vec::new(), authorization.unwrap_or_default().into_bytes());
    }
    let files: &[&str] = if path.contains("someone/tiny/") {
        &["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"]
    } else if path.contains("someone/gemma/") {
        &["config.json", "model.safetensors", "tokenizer.json"]
    } else if path.contains("someone/sharded/") {
        &[
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ]
    } else if path.contains("someone/pickled/") {
        &["config.json", "pytorch_model.bin"]
    } else {
        return not_found();
    };
    let head = if moved { OTHER_COMMIT } else { COMMIT };
    let commit_of = |revision: &str| match revision {
        "main" => Some(head.to_owned()),
        COMMIT | OTHER_COMMIT => Some(revision.to_owned()),
        _ => None,
    };
    if let Some((_, revision)) = path.split_once("/revision/") {
        let Some(commit) = commit_of(revision) else { return not_found() };
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({ "rfilename": file })).collect();
        let body = serde_json::json!({ "sha": commit, "siblings": siblings }).to_string();
        return ("200 OK", vec![("Content-Type", "application/json".into())], body.into_bytes());
    }
    let Some((revision, file)) = path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/')) else {
        return not_found();
    };
    let (Some(commit), true) = (commit_of(revision), files.contains(&file)) else { return not_found() };
    let bytes = file_of(path, file);
    let (start, end) = range
        .as_deref()
        .and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
        .map_or((0, bytes.len()), |(start, end)| {
            (start.parse().unwrap_or(0), end.parse().map_or(bytes.len(), |end: usize| end + 1))
        });
    let headers = vec![
        ("X-Repo-Commit", commit.clone()),
        ("ETag", format!("\"{file}-{commit}\"")),
        ("Content-Range", format!("bytes {start}-{}/{}", end.saturating_sub(1), bytes.len())),
    ];
    ("206 Partial Content", headers, bytes[start..end].to_vec())
}
