//! How quickly to work: load, heat and transfers in, tempo out.
//!
//! The tempo is a tranquility (STYLE, garage): rest so many times as long as the last step took. It is not a priority,
//! for the unit's system call filter refuses those (DECISIONS 27).

/// How the box is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Load average of the last minute over the number of cores: 1 is busy.
    pub per_core: f32,
    /// Part of it that is the Doctor's own workers.
    pub own_per_core: f32,
    /// Of the hottest sensor, °C; `None` where there is none.
    pub temperature_c: Option<f32>,
    /// Downloads and uploads under way.
    pub transfers: u32,
}

/// How quickly to work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tempo {
    /// Rest so many times as long as the step took; 0 is full speed.
    pub rest: f32,
    /// Files at once, at most.
    pub workers: usize,
}

/// A Pi lowers its clock at 80 °C; work slows from here,
const WARM_C: f32 = 70.0;
/// and rests almost always from here.
const HOT_C: f32 = 78.0;
/// Rest at `HOT_C` and beyond.
const REST_HOT: f32 = 9.0;
/// Rest beside transfers: a third of the processor and disk for the scan.
const REST_TRANSFERS: f32 = 2.0;
/// More never: a scan must end some day.
const REST_MAX: f32 = 19.0;
/// Load of others, per core, that costs nothing.
const OTHERS_FREE: f32 = 0.25;

/// The tempo for this load. `asked` is the owner's number of files at once, `cores` the box's.
pub fn tempo(load: &Load, asked: usize, cores: usize) -> Tempo {
    let most = asked.clamp(1, cores.max(1));
    let others = (load.per_core - load.own_per_core).max(0.0);
    // With others busy on a share of each core, rest so that their share stays theirs.
    let for_others = if others > OTHERS_FREE { (others * 2.0).min(REST_HOT) } else { 0.0 };
    let for_transfers = if load.transfers > 0 { REST_TRANSFERS } else { 0.0 };
    let heat = load.temperature_c.map_or(0.0, |c| ((c - WARM_C) / (HOT_C - WARM_C)).clamp(0.0, 1.0));
    let for_heat = heat * REST_HOT;
    let rest = for_others.max(for_transfers).max(for_heat).min(REST_MAX);
    let workers = if load.transfers > 0 || heat >= 1.0 { most.min(most / 2 + 1) } else { most };
    Tempo { rest, workers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_yields_to_heat_transfers_and_others() {
        let idle = Load::default();
        assert_eq!(tempo(&idle, 8, 4), Tempo { rest: 0.0, workers: 4 });
        assert_eq!(tempo(&idle, 2, 4).workers, 2);
        assert_eq!(tempo(&idle, 4, 1).workers, 1);
        let busy = Load { transfers: 2, ..idle };
        assert_eq!(tempo(&busy, 8, 4), Tempo { rest: 2.0, workers: 3 });
        let rest = |temperature| tempo(&Load { temperature_c: Some(temperature), ..idle }, 8, 4).rest;
        assert!(rest(60.0) == 0.0 && rest(74.0) > 0.0 && rest(74.0) < rest(77.0) && rest(90.0) >= 9.0);
        // Our own load is no reason to slow down.
        let own = Load { per_core: 0.9, own_per_core: 0.75, ..idle };
        assert!(tempo(&own, 8, 4).rest == 0.0);
        assert!(tempo(&Load { per_core: 2.0, own_per_core: 0.75, ..idle }, 8, 4).rest > 2.0);
    }
}
