"""Telling others of the ends of batches: a signature, a safe way to post, and a thread that sends."""
