/** Texts to try; `read` is the label that a person gives each, and no model's answer. */
export const EXAMPLES = [
  { text: "It starts slow and clumsy, but it ends as something wonderful.", read: "positive" },
  { text: "A warm, funny film.", read: "positive" },
  { text: "The acting was great, but the story was a mess.", read: "negative" },
  { text: "A great cast in a film that goes nowhere.", read: "negative" },
  { text: "Not bad at all.", read: "positive" },
  { text: "Not for a moment was I bored.", read: "positive" },
  { text: "Hey, are we still on for lunch tomorrow?", read: "ham" },
  { text: "WINNER!! You have won a free prize. Call 09061701461 now to claim.", read: "spam" },
  { text: "Congratulations on your new job! Call me when you are free.", read: "ham" },
  { text: "Your account has been suspended. Log in to verify your details.", read: "spam" },
];
