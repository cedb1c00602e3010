//! Sentences that say what was done. The address of a page carries only the word.

const SENTENCES: [(&str, &str); 34] = [
    ("acknowledged", "Acknowledged. It stays on the list."),
    ("asked", "Asked for. The downloads page shows how it goes."),
    ("asked_some", "Some files were asked for; others could not be, because they are queued or there already."),
    ("cancelled", "Cancelled."),
    ("changed", "The settings are changed."),
    ("cleared", "Finished transfers are cleared from the list. The files stay where they are."),
    ("connecting", "Connecting to the Soulseek server."),
    ("credentials", "User name and password are kept. Connecting to the Soulseek server."),
    ("dismissed", "Dismissed. It stays away when the library is scanned again."),
    ("disconnected", "Disconnected. You stay offline until you connect again."),
    ("downloads", "Finished downloads go to the new place once the box has restarted."),
    ("fetched", "The share list has arrived."),
    ("fix_begun", "The repair has begun. This page shows how it goes."),
    ("forgotten", "Forgotten."),
    ("job_begun", "The job has begun. This page shows how it goes."),
    ("job_cancelled", "The job is called off. Tracks that are in their places stay there."),
    ("job_imported", "The job is taken up."),
    ("job_paused", "The job is paused. What was fetched stays."),
    ("job_resumed", "The job goes on."),
    ("password", "The password is set. Other browsers and tools have to sign in again."),
    ("removed", "Removed from the list."),
    ("reopened", "It counts as an open issue again."),
    ("rescan", "The scan has begun."),
    ("retried", "It will be tried again."),
    ("scan_stopped", "The scan is being stopped."),
    ("searching", "The search is on its way. Results appear as they come."),
    ("sent", "The message is sent."),
    ("signed_out", "You are signed out."),
    ("stopped", "The search takes no more results."),
    ("unchanged", "Nothing was changed."),
    ("undone", "Undone: the old file lies in its place again."),
    ("update", "The update is right. It is written to the card now, and the box restarts by itself."),
    ("wish_added", "The wish is added. It is searched for at the server's own pace."),
    ("wish_removed", "The wish is removed."),
];

/// The sentence of a word; unknown words say nothing.
pub(super) fn sentence(word: &str) -> Option<&'static str> {
    SENTENCES.iter().find(|(known, _)| *known == word).map(|(_, sentence)| *sentence)
}
