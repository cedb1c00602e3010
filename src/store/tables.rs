//! Tables: names, versions, records, migration.
