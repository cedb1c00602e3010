//! Plays a scenario in which a download from one Soulseek user hangs, and mesh peers may rescue it.
//!
//! The file is asked of the user alone, as the page would do it. The clock of the report's `seconds` begins when the
//! rescue does, and `ideal_seconds` counts what is missing then.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::LabError;
use super::material;
use super::scenario::{Copied, Kind, Scenario, Via};
use super::stage::{Report, Rescued, Source, Stage, Watch, between, moment, rounded, stopped};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A download that failed has been looked at by then.
const FAILED: Duration = Duration::from_secs(10);
/// The name of no download.
const NOTHING: &str = "00000000-0000-0000-0000-000000000000";

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Stage<'_> {
    /// Asks the Soulseek user, and waits until the file is there or the rescue came to nothing.
    pub(super) fn rescue(mut self, watch: &mut dyn Watch) -> Result<Report, LabError> {
        let mut happens = self.happens().into_iter().peekable();
        let (name, path) = self
            .scenario
            .peers
            .iter()
            .zip(&self.peers)
            .find_map(|(peer, source)| match source {
                Source::Soulseek(user) => Some((peer.name.clone(), user.path().to_owned())),
                Source::Mesh(_) => None,
            })
            .unwrap_or_default();
        let began = self.clock.now().mono;
        let wanted = json!({ "user": name, "files": [{ "path": path, "size": self.scenario.size }] });
        let asked = self.fetcher.ask("POST", "/api/downloads", Some(&wanted))?;
        let id = asked["accepted"][0]["id"].as_str().unwrap_or(NOTHING).to_owned();
        let asked_at = asked["accepted"][0]["requested_at"].clone();
        if self.scenario.kind == Kind::Flac {
            let recording = crate::model::health::uuid_text(material::recording(self.scenario.seed));
            let known = json!({ "recording": recording });
            self.fetcher.ask("PUT", &format!("/api/downloads/{id}/recording"), Some(&known))?;
        }
        let (mut peak, mut first, mut last) = (0, None, None);
        let mut ended = None;
        let (mut kills, mut alive, mut dice) = (0, None, self.scenario.seed | 1);
        let comes_round = self.scenario.peers.iter().any(|peer| peer.recovers.is_some());
        let (transfer, elapsed) = loop {
            stopped(self.stop)?;
            let elapsed = self.clock.now().mono.saturating_sub(began);
            if kills < self.scenario.kills && alive.is_some_and(|until| elapsed >= until) {
                self.kill()?;
                (kills, alive) = (kills + 1, None);
            }
            while let Some((_, what)) = happens.next_if(|(when, _)| *when <= elapsed) {
                self.let_happen(what)?;
            }
            let transfer = self.fetcher.ask("GET", &format!("/api/downloads/{id}"), None)?;
            peak = self.fetcher.peak_rss_kib().unwrap_or(0).max(peak);
            let rescue = &transfer["rescue"];
            if rescue["state"] == "Active" && first.is_none() {
                first = rescue["soulseek_bytes"].as_u64();
            }
            if rescue["overlay_peers"].as_array().is_some_and(|sources| !sources.is_empty()) {
                last = Some(self.sources(rescue));
            }
            let mut seen = self.look(&json!({ "bytes_done": transfer["bytes_done"] }), elapsed);
            if let Some(sources) = &last {
                seen.sources.clone_from(sources);
            }
            seen.bytes = seen.bytes.max(rescue["bytes_done"].as_u64().unwrap_or(0));
            seen.waits = text(if rescue["state"] == "Active" { &rescue["waits_for"] } else { &transfer["reason"] });
            watch.looks(&seen);
            if alive.is_none() && rescue["overlay_speed"].as_u64().is_some_and(|speed| speed > 0) {
                alive = Some(elapsed + moment(&mut dice));
            }
            let over = transfer["is_over"] == true;
            if over && ended.is_none() {
                ended = Some(elapsed);
            }
            // One that failed may be looked at in a moment.
            let failed = over && transfer["state"] != "Completed, Succeeded" && rescue.is_null();
            let looked_at = ended.is_some_and(|ended| elapsed.saturating_sub(ended) > FAILED);
            // A copy beside the download ends the play, unless the user is to come round and send the file itself.
            let beside = rescue["manner"] == "whole_variant" && rescue["state"] == "Completed" && !comes_round;
            let done = beside || over && rescue["state"] != "Active" && (!failed || looked_at);
            if done || elapsed > self.scenario.time_limit {
                break (transfer, elapsed);
            }
            let kill = alive.filter(|_| kills < self.scenario.kills);
            std::thread::sleep(kill.map_or(LOOK, |until| until.saturating_sub(elapsed).min(LOOK)));
        };
        self.over(&transfer, elapsed, (first, peak, kills), &asked_at)
    }

    /// By peer, in the scenario's order: bytes, bad pieces, whether it gets nothing more.
    fn sources(&self, rescue: &Value) -> Vec<(u64, u64, bool)> {
        let rows = rescue["overlay_peers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |(key, id): &(&'static str, String)| {
            let row = rows.iter().find(|row| row[*key] == id.as_str());
            let number = |key: &str| row.and_then(|row| row[key].as_u64()).unwrap_or(0);
            (number("bytes"), number("bad_pieces"), row.is_some_and(|row| row["dropped"] == true))
        };
        self.ids.iter().map(of).collect()
    }

    fn over(
        mut self,
        transfer: &Value,
        elapsed: Duration,
        (first, peak, kills): (Option<u64>, u64, u32),
        asked_at: &Value,
    ) -> Result<Report, LabError> {
        let rescue = &transfer["rescue"];
        let sent = self.sent()?;
        let content = rescue["content_hash"].as_str().map(str::to_owned);
        let (mut trace, mut fetched) = (None, Value::Null);
        if let Some(content) = &content {
            let path = format!("/api/mesh/fetches/{content}");
            fetched = self.fetcher.ask_if_there(&path)?.unwrap_or_default();
            trace = self.trace(&path)?;
        }
        let look = self.look(&fetched, elapsed);
        let reports = self.peers.iter().filter_map(|peer| match peer {
            Source::Soulseek(user) => user.report(),
            Source::Mesh(_) => None,
        });
        let soulseek = reports.map(|report| json!(report)).next();
        self.fetcher.stop();
        let path = rescue["local_path"].as_str().or(transfer["local_path"].as_str());
        let completed =
            path.is_some() && (transfer["state"] == "Completed, Succeeded" || rescue["state"] == "Completed");
        let identical = completed && path.is_some_and(|path| self.is_original(Path::new(path)));
        let activated = between(asked_at, &rescue["activated_at"]);
        let began = first.is_some();
        let seconds = if began { between(&rescue["activated_at"], &rescue["ended_at"]) } else { None };
        let seconds = seconds.unwrap_or(elapsed.as_secs_f64());
        let ideal = first.and_then(|first| ideal(self.scenario, self.scenario.size.saturating_sub(first)));
        let names = || self.scenario.peers.iter().map(|peer| peer.name.clone());
        let told = rescue["not_the_file"].as_array().into_iter().flatten();
        let not_the_file = told.filter_map(|row| {
            let at = self.ids.iter().position(|(_, id)| row["peer"] == id.as_str())?;
            Some((self.scenario.peers[at].name.clone(), text(&row["why"])))
        });
        let corrupt = names().zip(&look.sources).map(|(name, source)| (name, source.1));
        let overlay: u64 =
            self.scenario.peers.iter().zip(&sent).filter(|(peer, _)| peer.via == Via::Mesh).map(|(_, sent)| sent).sum();
        let useful: u64 = self
            .scenario
            .peers
            .iter()
            .zip(&look.sources)
            .filter(|(peer, _)| peer.via == Via::Mesh)
            .map(|(_, source)| source.0)
            .sum();
        // A killed node forgets who brought what.
        let useful = if kills > 0 && completed { self.scenario.size.min(overlay) } else { useful };
        Ok(Report {
            completed,
            identical,
            bytes: look.bytes,
            seconds: rounded(seconds),
            ideal_seconds: ideal.map(rounded),
            ratio: ideal.filter(|_| completed).map(|ideal| rounded(seconds / ideal)),
            bytes_by_source: names().zip(look.sources.iter().map(|source| source.0)).collect(),
            wasted_bytes: overlay.saturating_sub(useful),
            corrupt_pieces_by_source: corrupt.filter(|(_, pieces)| *pieces > 0).collect(),
            kills,
            rescue: (!rescue.is_null()).then(|| Rescued {
                activated_at_s: rounded(activated.unwrap_or_default()),
                reason: text(&rescue["reason"]),
                manner: text(&rescue["manner"]),
                state: text(&rescue["state"]),
                told: text(&rescue["told"]),
                overlay_bytes: rescue["overlay_bytes"].as_u64().unwrap_or(0),
                soulseek_bytes: rescue["soulseek_bytes"].as_u64().unwrap_or(0),
                guardrails_hit: rescue["guardrails_hit"].as_array().into_iter().flatten().map(text).collect(),
                transfer: text(&transfer["state"]),
                transfer_reason: text(&transfer["reason"]),
                rung: transfer["rung"].as_str().map(str::to_owned),
                not_the_file: not_the_file.collect(),
            }),
            soulseek,
            peak_rss_kib: peak,
            trace,
        })
    }
}

/// Seconds in which the good mesh peers bring so much at full rate. `None`: no speed is given, or there are none.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ideal(scenario: &Scenario, missing: u64) -> Option<f64> {
    let mut whole = 0.0;
    for peer in scenario.peers.iter().filter(|peer| peer.via == Via::Mesh && peer.copy == Copied::Original) {
        if peer.faults.wrong_root || peer.faults.corrupt_every.is_some() {
            continue;
        }
        whole += peer.faults.rate? as f64;
    }
    (whole > 0.0).then(|| missing as f64 / whole)
}
