//! A job as YAML. Every text is in double quotes, so that nothing in it can be taken for anything else.

use std::fmt::Write as _;

use super::{VERSION, show_time};
use crate::model::job::{Child, Job, JobTrack, TrackState};

/// A text in double quotes: printable as it is, everything else escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            _ if u32::from(c) > 0xffff => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One line, if there is anything to say.
fn line(out: &mut String, indent: &str, key: &str, value: Option<String>) {
    if let Some(value) = value {
        let _ = writeln!(out, "{indent}{key}: {value}");
    }
}

fn text(value: Option<&str>) -> Option<String> {
    value.map(quoted)
}

/// The manifest of a job, in the envelope layout.
pub fn write(job: &Job) -> String {
    let mut out = String::from("# A job of slskdn. `slskdn jobs import FILE` takes it up, here or on another box.\n");
    let time = |at| Some(quoted(&show_time(at)));
    line(&mut out, "", "manifest_version", Some(quoted(VERSION)));
    line(&mut out, "", "job_id", text(Some(job.id.as_str())));
    line(&mut out, "", "origin_id", text(job.origin.as_ref().map(crate::model::job::JobId::as_str)));
    line(&mut out, "", "job_type", Some(Job::KIND.to_owned()));
    line(&mut out, "", "created_at", time(job.created_at));
    line(&mut out, "", "updated_at", time(job.updated_at));
    let spec = &job.spec;
    out.push_str("spec:\n");
    line(&mut out, "  ", "mb_release_id", Some(quoted(&spec.release.to_string())));
    line(&mut out, "  ", "title", text(Some(&spec.title)));
    line(&mut out, "  ", "artist", text(Some(&spec.artist)));
    line(&mut out, "  ", "target_dir", text(Some(&spec.target_dir)));
    out.push_str("  tracks:\n");
    for track in &spec.tracks {
        write_track(&mut out, track);
    }
    let c = &spec.constraints;
    let codecs: Vec<&str> = c.preferred_codecs.iter().map(|codec| codec.name()).collect();
    out.push_str("  constraints:\n");
    line(&mut out, "    ", "preferred_codecs", Some(format!("[{}]", codecs.join(", "))));
    line(&mut out, "    ", "allow_lossy", Some(c.allow_lossy.to_string()));
    line(&mut out, "    ", "max_lossy_tracks_per_album", c.max_lossy_tracks.map(|n| n.to_string()));
    line(&mut out, "    ", "prefer_canonical", Some(c.prefer_canonical.to_string()));
    line(&mut out, "    ", "use_overlay", Some(c.use_overlay.to_string()));
    line(&mut out, "    ", "overlay_bandwidth_kbps", c.overlay_bandwidth_kbps.map(|n| n.to_string()));
    let progress = job.progress();
    out.push_str("status:\n");
    line(&mut out, "  ", "state", Some(job.state.name().to_owned()));
    line(&mut out, "  ", "started_at", job.started_at.and_then(time));
    line(&mut out, "  ", "completed_at", job.completed_at.and_then(time));
    let pending = progress.tracks.saturating_sub(progress.done).saturating_sub(progress.busy);
    line(&mut out, "  ", "completed_tracks", Some(progress.done.to_string()));
    line(&mut out, "  ", "in_progress_tracks", Some(progress.busy.to_string()));
    line(&mut out, "  ", "pending_tracks", Some(pending.to_string()));
    line(&mut out, "  ", "bytes_total", Some(progress.bytes.to_string()));
    line(&mut out, "  ", "bytes_done", Some(progress.bytes_done.to_string()));
    line(&mut out, "  ", "error_message", text(job.error.as_deref()));
    out.push_str("  tracks:\n");
    for child in &job.children {
        write_child(&mut out, child);
    }
    out
}

fn write_track(out: &mut String, track: &JobTrack) {
    let _ = writeln!(out, "    - medium: {}", track.medium);
    line(out, "      ", "position", Some(track.position.to_string()));
    line(out, "      ", "title", text(Some(&track.title)));
    line(out, "      ", "artist", text(Some(track.artist.as_str()).filter(|artist| !artist.is_empty())));
    line(out, "      ", "mb_recording_id", Some(quoted(&track.recording.to_string())));
    line(out, "      ", "duration_ms", track.duration_ms.map(|ms| ms.to_string()));
}

fn write_child(out: &mut String, child: &Child) {
    let Child { state, size, done, file, proof, note } = child;
    let state: TrackState = *state;
    let _ = writeln!(out, "    - state: {}", state.name());
    line(out, "      ", "size", size.map(|size| size.to_string()));
    line(out, "      ", "bytes_done", (*done > 0).then(|| done.to_string()));
    line(out, "      ", "file", text(file.as_deref()));
    line(out, "      ", "verified_by", proof.map(|proof| proof.name().to_owned()));
    line(out, "      ", "note", text(note.as_deref()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_whole() {
        assert_eq!(quoted("a \"b\" \\ \n\u{85}\u{1f3b5}\u{feff}"), "\"a \\\"b\\\" \\\\ \\n\\u0085\\U0001F3B5\\uFEFF\"");
    }
}
