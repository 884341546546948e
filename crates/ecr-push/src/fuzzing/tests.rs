//! The targets as property tests, and where the corpus begins: seeds from what real engines wrote.

#[path = "../../../../fuzz/drive.rs"]
mod drive;
mod seeds;

#[test]
fn no_archive_makes_its_reader_panic_or_lie() {
    drive::run("archive", super::archive);
}

#[cfg(unix)]
#[test]
fn no_store_leads_out_of_a_layer() {
    drive::run("tar_split", super::tar_split);
}

#[test]
fn no_manifest_says_two_things() {
    drive::run("manifest", super::manifest);
}

#[test]
fn every_name_that_is_read_can_be_written() {
    drive::run("reference", super::reference);
}

#[test]
fn no_layout_makes_its_reader_panic_or_lie() {
    drive::run("layout", super::layout);
}

#[test]
fn no_answer_of_an_engine_is_believed_too_much() {
    drive::run("engine_answer", super::engine_answer);
}

#[test]
fn no_answer_of_a_registry_leads_elsewhere() {
    drive::run("registry_answer", super::registry_answer);
}

#[test]
fn no_token_goes_into_a_header_as_something_else() {
    drive::run("token", super::token);
}

#[test]
fn no_file_of_the_cache_is_believed_too_much() {
    drive::run("cache", super::cache);
}
