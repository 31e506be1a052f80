"""Transfer: image descriptors, a linear SVM on them, and the protocols of Tables 11 and 12 (Appendix B)."""
