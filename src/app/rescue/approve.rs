//! Whether what came is what was wanted, before it is put in its place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::job::{End, Rescue, end};
use super::resolve::{Unmeasured, declared_ms, measure};
use crate::app::doctor::Fact;
use crate::engine::swarm::rescue::guard::{Join, Sound, alike};
use crate::model::rescue::{Manner, RescueState};
use crate::model::transfer::Transfer;
use crate::model::variant::Measured;

/// Between two attempts to measure a file while the machine has nothing to do it with, and how many there are.
const MEASURE_AGAIN: (Duration, usize) = (Duration::from_secs(10), 30);

/// How a recording should sound, as the bytes say that are there and those who do not guess.
#[derive(Debug, Default)]
struct Wanted {
    duration_ms: Option<u64>,
    print: Vec<u32>,
}

impl Rescue<'_> {
    /// Whether the finished file may be put in its place: where strangers alone named it, it must decode and pass its own
    /// checksums, and another copy must play as long and sound as it should.
    pub(super) async fn approve(&mut self, measured: Option<Box<Measured>>) -> Result<(), End> {
        let download = self.still_wanted().await?;
        if let (Join::Free, Some(_)) | (_, None) = (self.join, &download) {
            return Ok(());
        }
        let Some(download) = download else { return Ok(()) };
        let measured = match measured {
            Some(measured) => measured,
            None => self.measure(&download).await?,
        };
        if !measured.integrity.is_whole() {
            return Err(self.refute("the file that came fails its own checksums".to_owned()).await);
        }
        if self.job.manner == Manner::WholeVariant {
            let (inner, recording) = (Arc::clone(self.inner), self.job.recording);
            let looked = tokio::task::spawn_blocking(move || inner.wanted_sound(&download, recording));
            let wanted = looked.await.map_err(|error| end(RescueState::Failed, error.to_string()))?;
            let copy = Sound { duration_ms: Some(measured.duration_ms), print: &measured.fingerprint };
            let wanted = Sound { duration_ms: wanted.duration_ms, print: &wanted.print };
            if let Err(why) = alike(copy, wanted) {
                return Err(self.refute(format!("it is another recording: {why}")).await);
            }
        }
        // That took its time.
        self.still_wanted().await.map(|_| ())
    }

    /// The download as it is now, if the file may still take its place; `None`: it is gone, and need not be there.
    async fn still_wanted(&mut self) -> Result<Option<Transfer>, End> {
        let Some(download) = self.inner.wanted(self.job.transfer).await else {
            return if self.inner.rails.overlay_only { Ok(None) } else { Err(self.gone().await) };
        };
        if download.size > 0 && download.bytes_done >= download.size {
            return Err(end(RescueState::Cancelled, "the user sent the rest first"));
        }
        if self.job.manner == Manner::Splice && download.size > 0 && download.size != self.job.size {
            // Nobody said otherwise: the size was not known. It may be another copy of the recording, and is looked at so.
            let told = format!("the file of {} has {} bytes", self.job.user, download.size);
            return Err(end(RescueState::Failed, told));
        }
        match self.differs().await {
            Some(over) => Err(over),
            None => Ok(Some(download)),
        }
    }

    async fn measure(&mut self, download: &Transfer) -> Result<Box<Measured>, End> {
        let path: PathBuf = self.inner.parts.pump.config().incomplete.join(format!("{}.mesh", self.job.content));
        let mut attempts = MEASURE_AGAIN.1;
        loop {
            let (inner, path, download) = (Arc::clone(self.inner), path.clone(), download.clone());
            let measured = tokio::task::spawn_blocking(move || {
                measure(&inner.ground, &path, &download, &|| inner.cancel.is_cancelled())
            });
            match measured.await {
                Ok(Ok(measured)) => return Ok(measured),
                Ok(Err(Unmeasured::Bad(why))) => {
                    return Err(self.refute(format!("the file that came does not decode: {why}")).await);
                }
                Ok(Err(Unmeasured::NotNow(why))) if attempts == 0 => {
                    let told = format!("the file that came could not be looked at: {why}");
                    return Err(end(RescueState::Failed, told));
                }
                Err(error) => return Err(end(RescueState::Failed, error.to_string())),
                Ok(Err(Unmeasured::NotNow(_))) => attempts -= 1,
            }
            tokio::time::sleep(MEASURE_AGAIN.0).await;
        }
    }
}

impl Inner {
    /// How the recording should sound: as the header and the sound of what the user sent say, else as a copy that is
    /// here, else as the catalogue says. On a thread that may wait.
    fn wanted_sound(&self, download: &Transfer, recording: Option<u128>) -> Wanted {
        let mut wanted = Wanted::default();
        if let Some(partial) = self.partial(download) {
            wanted.duration_ms = declared_ms(&partial);
            wanted.print = partial.fingerprint;
        }
        let Some(recording) = recording.filter(|_| wanted.duration_ms.is_none()) else { return wanted };
        let own = self.parts.store.read(|txn, tables| tables.library.variants_of(txn, recording)).unwrap_or_default();
        wanted.duration_ms = own.first().map(|variant| variant.measured.duration_ms);
        if wanted.duration_ms.is_none()
            && let Fact::Known(facts) = self.ground.catalogue.recording(recording, false)
        {
            wanted.duration_ms = facts.duration_ms;
        }
        wanted
    }
}
