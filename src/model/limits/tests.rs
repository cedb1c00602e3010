use super::*;
use crate::model::config::{Given, Place, Raw, resolve};

#[test]
fn the_default_budget_suffices_and_a_small_one_is_refused() {
    assert_eq!(fits(&resolve(&[]).unwrap().config), Ok(()));
    let small = Given { key: "memory.budget".into(), value: Raw::One("64".into()), place: Place::default() };
    assert!(fits(&resolve(&[vec![small]]).unwrap().config).unwrap_err().contains("64 MiB are too few"));
}

#[test]
fn the_service_is_limited_to_what_is_counted_here() {
    let unit = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/slskdn.service")).unwrap();
    let line = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.strip_suffix('M').unwrap().parse::<u64>().unwrap() * MIB
    };
    let budget = resolve(&[]).unwrap().config.memory_budget_mib * MIB;
    assert_eq!(line("MemoryHigh="), unit_memory_high(budget));
    assert_eq!(line("MemoryMax="), unit_memory_max(budget));
}
