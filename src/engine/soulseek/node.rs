//! All machines of the Soulseek engine behind one door.
