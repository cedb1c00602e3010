//! Reads the sources and holds the rules that the compiler cannot: which layer may import what, how long a room may
//! be, and which words have no business in the project.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Crates and own layers each folder may name, and the sentence that explains a wrong one.
const LAYERS: &[(&str, &[&str], &[&str], &str)] = &[
    ("model", &[], &["serde"], "model is plain words: std and serde only"),
    (
        "engine",
        &["model"],
        &["serde", "postcard", "thiserror", "blake3", "sha1", "sha2", "md5", "realfft", "flate2", "bytes", "arrayvec"],
        "engine is pure: no sockets, files, threads, clocks or randomness; they arrive as arguments",
    ),
    (
        "net",
        &["model", "engine"],
        &[
            "tokio",
            "tokio_util",
            "tracing",
            "thiserror",
            "socket2",
            "bytes",
            "blake3",
            "crab_nat",
            "mainline",
            "mdns_sd",
            "igd_next",
            "futures_util",
            "rustix",
            "flate2",
            "reqwest",
            "rustls",
            "webpki",
            "ring",
            "quinn",
            "serde",
            "serde_json",
        ],
        "net knows sockets and nothing of disk, store, web and app",
    ),
    (
        "disk",
        &["model", "engine"],
        &["bytes", "tokio", "tokio_uring", "io_uring", "tracing", "thiserror", "rustix", "futures_util", "tokio_util"],
        "disk knows files and nothing of net, store, web and app",
    ),
    (
        "probe",
        &["model", "engine"],
        &[
            "symphonia",
            "unsafe_libopus",
            "lofty",
            "rusty_chromaprint",
            "base64",
            "seccompiler",
            "libc",
            "rustix",
            "tokio",
            "thiserror",
            "serde",
            "postcard",
            "blake3",
            "sha2",
            "md5",
        ],
        "probe measures files and knows nothing of net, disk, store, web and app",
    ),
    (
        "store",
        &["model", "engine"],
        &["heed", "postcard", "serde", "tokio", "tracing", "thiserror", "rustix", "blake3", "futures_util"],
        "store knows LMDB and nothing of net, disk, web and app",
    ),
    (
        "web",
        &["model"],
        &[
            "axum",
            "askama",
            "tokio",
            "tokio_stream",
            "tokio_util",
            "tower",
            "tracing",
            "thiserror",
            "serde",
            "serde_json",
            "hyper",
            "hyper_util",
            "http_body_util",
            "bytes",
            "futures_util",
            "hmac",
            "sha2",
            "argon2",
            "subtle",
            "base64",
            "getrandom",
            "percent_encoding",
            "prometheus_client",
            "socket2",
            "rustix",
            "jiff",
        ],
        "web shows model::view and knows nothing of the engine and the other shells",
    ),
];

const OWN: &[&str] = &["model", "engine", "net", "disk", "probe", "store", "web", "app"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&Path::new(ROOT).join(below), &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(ROOT).unwrap().display().to_string();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(read).collect()
}

/// Code without comments, and without the unit tests, which may use more.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/") || name.ends_with("_test.rs")
}

#[test]
fn layers_import_only_what_they_may() {
    let crates: BTreeSet<String> = {
        let manifest = std::fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
        let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
        let section = rest.split("\n[").next().unwrap();
        let names =
            section.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().replace('-', "_"));
        names.map(|name| if name == "md_5" { "md5".to_owned() } else { name }).collect()
    };
    let mut wrong = Vec::new();
    for (layer, own, allowed, why) in LAYERS {
        for (name, text) in all(&format!("src/{layer}")) {
            if is_test(&name) {
                continue;
            }
            for (at, line) in code(&text) {
                for other in OWN {
                    let named =
                        line.contains(&format!("crate::{other}::")) || line.contains(&format!("crate::{other};"));
                    if named && other != layer && !own.contains(other) {
                        wrong.push(format!("{name}:{}: imports {other}; {why}", at + 1));
                    }
                }
                for foreign in &crates {
                    let used = line.match_indices(&format!("{foreign}::")).any(|(byte, _)| {
                        !line[..byte].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '.')
                    });
                    if used && !allowed.contains(&foreign.as_str()) {
                        wrong.push(format!("{name}:{}: imports {foreign}; {why}", at + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_engine_is_pure() {
    let banned = [
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant",
        "HashMap",
        "HashSet",
        "Mutex",
        "println!",
    ];
    let mut wrong = Vec::new();
    for (name, text) in all("src/engine").into_iter().chain(all("src/model")) {
        if is_test(&name) {
            continue;
        }
        for (at, line) in code(&text) {
            for word in banned {
                if line.contains(word) {
                    wrong.push(format!("{name}:{}: {word}: the engine takes what it needs as arguments", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_are_not_halls() {
    let long: Vec<String> = all("src")
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .map(|(name, lines)| format!("{name} has {lines} lines: split it where the seams are"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn rooms_say_what_they_are_for() {
    let silent: Vec<String> = all("src")
        .into_iter()
        .filter(|(name, text)| !is_test(name) && !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "no opening words: {}", silent.join(", "));
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two halves, so that this list does not find itself.
    let words = [["to", "do!("], ["unimpl", "emented!("], ["FIX", "ME"], ["TO", "DO"], ["XX", "X:"], ["#[ign", "ore"]]
        .map(|w| w.concat());
    let mut wrong = Vec::new();
    for (name, text) in all("src").into_iter().chain(all("tests")) {
        for (at, line) in text.lines().enumerate() {
            for word in &words {
                if line.contains(word.as_str()) {
                    wrong.push(format!("{name}:{}: {word}", at + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let agreed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "board",
        "image",
        "systemd",
        "cross.toml",
        "web-min",
        "tests",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "deny.toml",
        "clippy.toml",
        "rustfmt.toml",
        "askama.toml",
        "docs",
        ".ci",
        ".git",
        ".gitignore",
        "target",
    ];
    let extra: Vec<String> = std::fs::read_dir(ROOT)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !agreed.contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "not agreed at the top: {}", extra.join(", "));
}
