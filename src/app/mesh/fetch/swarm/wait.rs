//! What a fetch waits for, and whom it asks meanwhile.

use std::time::Duration;

/// A brake that lets some bytes through opens within so long.
const SOON: Duration = Duration::from_millis(100);
/// Rules are looked at once a second.
const RULES: Duration = Duration::from_secs(1);

/// Why nothing more is asked for, though something may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing is: all that can be asked for is.
    Nothing,
    /// For one of the runs that there may be: it is told when one is over.
    Run,
    /// For a brake that is slowly paid off.
    Brake,
    /// For a rule that forbids everything.
    Rule,
}

impl Wait {
    /// A brake is shut, or `held` shut for long.
    pub(super) fn braked(held: bool) -> Self {
        if held { Self::Rule } else { Self::Brake }
    }

    /// When to look again, at the latest; `None`: something will tell.
    pub(super) fn within(self) -> Option<Duration> {
        match self {
            Self::Nothing | Self::Run => None,
            Self::Brake => Some(SOON),
            Self::Rule => Some(RULES),
        }
    }
}

/// Whether a Soulseek user is asked once more: not when the run of one `met` what was there, as long as mesh peers bring the
/// rest. While too little is given to the mesh, and its peers are `held` back, Soulseek comes first.
pub(super) fn user_wanted(met: bool, has_mesh: bool, held: bool) -> bool {
    !met || !has_mesh || held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_met_the_rest_is_asked_again_where_the_mesh_is_held_back() {
        for (met, has_mesh, held, wanted) in [
            (false, true, false, true),
            (true, true, false, false),
            (true, true, true, true),
            (true, false, false, true),
        ] {
            assert_eq!(user_wanted(met, has_mesh, held), wanted, "{met} {has_mesh} {held}");
        }
    }
}
