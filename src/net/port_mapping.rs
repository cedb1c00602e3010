//! Asks the router to let callers in: PCP, NAT-PMP, UPnP.
