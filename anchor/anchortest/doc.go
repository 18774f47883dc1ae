// Package anchortest holds the promises of storage under the audit log and the
// witness as suites, and memory versions that keep them, check their caller, and
// fail on demand.
//
// Every implementation of auditlog.Backend, auditlog.HeadFile and witness.Store
// runs [TestBackend], [TestBackendReopen], [TestHeadFile] and [TestWitnessStore].
// [Disk], [HeadCell] and [WitnessDB] are what tests of the log and the witness run
// on. They separate the storage from the handle that is open on it, so a crash is
// one line: open a new handle and throw the old one away. An Inject hook is asked
// before each operation and may answer with a [Fault].
package anchortest
