// Prompts that show something to whoever has just arrived. The demo model in the binary answers them right.

const FACT = "The secret code for river is 4821.";
const QUESTION = "What is the secret code for river?";

const OTHERS = [
  "It rained all night, but the morning was clear.",
  "The train was late and nobody was surprised.",
  "Some people like tea, and some people like milk.",
  "The shop on the corner was closed that day.",
  "A small bird sat on the fence and sang.",
  "The old man walked slowly down the road.",
  "They talked about the weather for a long time.",
  "The boat moved slowly across the water.",
  "We took the long way because the bridge was closed.",
  "The bread was still warm when they came home.",
  "The meeting was long and nothing was decided.",
  "A letter came, but it was for someone else.",
  "The stars were out and the night was still.",
  "He read the paper and drank his tea.",
  "The trees on the hill were very old.",
  "You can see the sea from the top of the hill.",
  "The clock on the wall had stopped long ago.",
  "Everyone agreed that the soup needed salt.",
  "After the rain the air was fresh.",
  "The dog slept near the fire.",
];

/** Sentences between fact and question: some 2,000 tokens. */
const LENGTH = 190;

export const SHORT = `${FACT} ${OTHERS[0]} The secret code for brave lion is 307.\n${QUESTION}`;

export const LONG = [FACT, ...Array.from({ length: LENGTH }, (_, at) => OTHERS[(at * 7 + Math.floor(at / 20)) % OTHERS.length])]
  .join(" ")
  .concat(`\n${QUESTION}`);
