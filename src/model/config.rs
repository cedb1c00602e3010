//! Every key of `slskdn.yml`.
