# SPDX-License-Identifier: Apache-2.0
"""`ilanet connectivity test`: pods of its own that reach each other in every way; used by cli.__main__ alone."""
