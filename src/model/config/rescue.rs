//! The sections `transfers.rescue_mode` and `mesh.fairness`.

use super::Reader;
use crate::model::units::{GIB, KIB, MIB};

/// Section `transfers.rescue_mode` (SPEC-FACTS 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RescueMode {
    /// Downloads that hang are looked for and rescued.
    pub enabled: bool,
    /// Seconds in a user's queue.
    pub queue_s: u64,
    /// Bytes per second below which a download is slow.
    pub throughput_min: u64,
    /// Seconds that it must have been slow.
    pub duration_s: u64,
    /// Seconds without a byte.
    pub stall_s: u64,
    /// Samples of a download's speed that are kept.
    pub window: usize,
    /// Seconds between two of them.
    pub sample_s: u64,
    /// What rescue may never do.
    pub guardrails: Guardrails,
}

/// Section `transfers.rescue_mode.guardrails`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guardrails {
    /// The download from Soulseek must not be over.
    pub soulseek_origin: bool,
    /// The recording or file was met on Soulseek by this node.
    pub seen_on_soulseek: bool,
    /// The recording must be known.
    pub fingerprint: bool,
    /// Thousandths of the bytes from Soulseek: above it the mesh brings half of what it did.
    pub ratio_milli: u64,
    /// Rescues at once.
    pub jobs_max: usize,
    /// Bytes that rescues bring within 24 hours.
    pub daily: u64,
    /// Rescue goes on without any download from Soulseek, and is not held back.
    pub overlay_only: bool,
}

/// Section `mesh.fairness` (SPEC-FACTS 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fairness {
    /// It is watched at all.
    pub enabled: bool,
    /// Thousandths: all bytes sent by all received, within 7 days.
    pub contribution_milli: u64,
    /// Thousandths: bytes sent to mesh peers by those received of them, within 24 hours. A warning.
    pub overlay_milli: u64,
    /// Thousandths: bytes sent to mesh peers by those sent on Soulseek, within 7 days.
    pub overlay_to_soulseek_milli: u64,
    /// Mesh downloads are slowed while too little is given.
    pub throttle: bool,
    /// They stop.
    pub pause: bool,
    /// Minutes between two looks.
    pub interval_min: u64,
    /// Bytes of mesh downloads within 24 hours.
    pub daily: u64,
    /// Bytes received in a window before its ratios count.
    pub grace: u64,
}

impl Reader<'_> {
    pub(super) fn rescue(&mut self) -> RescueMode {
        let name = |name: &str| format!("transfers.rescue_mode.{name}");
        let guard = |name: &str| format!("transfers.rescue_mode.guardrails.{name}");
        let (window, sample_s) =
            (self.number(&name("sample_window_size")), self.number(&name("sample_interval_seconds")));
        let duration_s = self.number(&name("min_duration_seconds"));
        // SPEC-FACTS C4: so many samples never span that long, and the rule would never hold.
        if window.saturating_sub(1).saturating_mul(sample_s) < duration_s {
            let needed = duration_s.div_ceil(sample_s.max(1)).saturating_add(1);
            let why = format!("{window} samples, one every {sample_s} s, never span {duration_s} s; {needed} do");
            self.wrong(&name("sample_window_size"), why);
        }
        RescueMode {
            enabled: self.flag(&name("enabled")),
            queue_s: self.number(&name("max_queue_time_seconds")),
            throughput_min: self.number(&name("min_throughput_kbps")).saturating_mul(KIB),
            duration_s,
            stall_s: self.number(&name("stall_timeout_seconds")),
            window: usize::try_from(window).unwrap_or(usize::MAX),
            sample_s,
            guardrails: Guardrails {
                soulseek_origin: self.flag(&guard("require_soulseek_origin")),
                seen_on_soulseek: self.flag(&guard("require_seen_on_soulseek")),
                fingerprint: self.flag(&guard("require_fingerprint_verification")),
                ratio_milli: u64::from(self.milli(&guard("max_overlay_to_soulseek_ratio"), 0.0, 1_000_000.0)),
                jobs_max: self.small(&guard("max_concurrent_rescue_jobs")) as usize,
                daily: self.number(&guard("max_overlay_mb_per_day")).saturating_mul(MIB),
                overlay_only: self.flag(&guard("allow_overlay_only")),
            },
        }
    }

    pub(super) fn fairness(&mut self) -> Fairness {
        let name = |name: &str| format!("mesh.fairness.{name}");
        let mut milli = |key: &str| u64::from(self.milli(&name(key), 0.0, 1_000.0));
        let (contribution_milli, overlay_milli, overlay_to_soulseek_milli) = (
            milli("min_contribution_ratio"),
            milli("min_overlay_upload_download_ratio"),
            milli("max_overlay_to_soulseek_upload_ratio"),
        );
        Fairness {
            enabled: self.flag(&name("enabled")),
            contribution_milli,
            overlay_milli,
            overlay_to_soulseek_milli,
            throttle: self.flag(&name("throttle_overlay_downloads")),
            pause: self.flag(&name("pause_overlay_downloads")),
            interval_min: self.number(&name("enforcement_interval_minutes")),
            daily: self.number(&name("daily_overlay_download_gb")).saturating_mul(GIB),
            grace: self.number(&name("grace_gib")).saturating_mul(GIB),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::model::config::{Given, Place, Raw, resolve};
    use crate::model::units::{GIB, KIB, MIB};

    fn given(key: &str, value: &str) -> Given {
        Given { key: key.into(), value: Raw::One(value.into()), place: Place::default() }
    }

    #[test]
    fn defaults_are_those_of_the_facts() {
        let config = resolve(&[]).unwrap().config;
        let rescue = &config.rescue;
        assert_eq!((rescue.enabled, rescue.queue_s, rescue.throughput_min), (true, 1_800, 10 * KIB));
        assert_eq!((rescue.duration_s, rescue.stall_s, rescue.window, rescue.sample_s), (300, 120, 12, 30));
        let guard = &rescue.guardrails;
        assert!(guard.soulseek_origin && guard.seen_on_soulseek && guard.fingerprint && !guard.overlay_only);
        assert_eq!((guard.ratio_milli, guard.jobs_max, guard.daily), (2_000, 5, 5_000 * MIB));
        let fair = config.fairness;
        assert_eq!((fair.contribution_milli, fair.overlay_milli, fair.overlay_to_soulseek_milli), (1_000, 800, 2_000));
        assert_eq!((fair.interval_min, fair.daily, fair.grace), (10, 50 * GIB, 5 * GIB));
        assert!(fair.enabled && fair.throttle && !fair.pause);
    }

    #[test]
    fn a_window_that_never_spans_the_time_is_refused() {
        let key = "transfers.rescue_mode.sample_window_size";
        let told = resolve(&[vec![given(key, "10")]]).unwrap_err();
        assert!(told[0].to_string().contains("never span 300 s; 11 do"), "{}", told[0]);
        assert!(resolve(&[vec![given(key, "11")]]).is_ok());
    }
}
