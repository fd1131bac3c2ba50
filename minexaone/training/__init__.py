"""EXAONE 4.0's training recipe at toy scale: pre-training, longer contexts, SFT, AGAPO and SimPER, one file each."""
