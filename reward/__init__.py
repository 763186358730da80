"""What an answer is worth: the judge, CodeBLEU, explanation similarity, and their composition."""
