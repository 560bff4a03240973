// The grammar of the built-in stories: first the plots, then the sentences they share, then the words. stories.h
// describes the notation. This file is long because it is a dictionary.
#include "llm/corpora/stories.h"

const char* const kStoriesGrammar = R"grammar(
story:
  $opening $scene $lost\n
  $opening $scene $garden\n
  $opening $scene $kitchen\n
  $opening $scene $rescue\n
  $opening $scene $journey\n
  $opening $scene $build\n
  $opening $scene $market\n
  $opening $scene $concert\n
  $opening $scene $night\n
  $opening $scene $quarrel\n

# ---- openings: they name the child -----------------------------------------------------------------------------------

opening:
  Once upon a time there was $a $trait [$childlook |]child named $hero:child. $habit
  $Hero:child was $a $trait $kind who lived in $town. $habit
  In the $old [village|town] of $town there lived $a $trait [$childlook |]child called $hero:child. $habit
  $Hero:child lived with $his $relative in $a $size house [near|beside|behind] the $spot. $habit
  One $weather $daytime, $hero:child woke up and felt $feeling. $plan
  $Hero:child was $age years old and very $trait. $habit
  Everyone in $town knew $hero:child, the child with the $colour $clothes. $habit
  On $a $weather $weekday in $season, $hero:child put on $his $colour $clothes and went out. $plan
  Far away, beyond the $mood $spot, lived $a $trait [$childlook |]child named $hero:child. $habit
  "What $a $fine $daytime!" said $hero:child. $plan
  Long ago, in a land full of $animal.many, there lived $a $trait [$childlook |]child called $hero:child. $habit
  There was once a [grandmother|grandfather] in $town who had $a $trait grandchild named $hero:child. $habit
  $Hero:child had $colour $clothes, $a $size $pack and $a $trait heart. $habit

habit:
  $He loved to $hobby.
  $He liked [$hobby.ing|nothing better than $hobby.ing].
  Every $daytime $he went out to $hobby.
  $His pockets were always full of $bits, $coins and $fruit.
  $He could $hobby better than [anyone|any $worker] in town.
  $His $relative was $a $worker, and the house smelled of $goods.
  People said $he was as $trait as $a $beast.
  $He collected $bits and kept them in $a $pack.

plan:
  $He wanted to $hobby all day.
  The sky was $colour and the $bird.many sang $manner.
  There were $pastry and $fruit for breakfast.
  It was too $weather to stay in bed.
  $A $bird sang $manner outside the window.
  Through the window came a smell of $goods and $blossom.many.

# ---- a lost toy, and an animal that helps to find it -----------------------------------------------------------------

lost:
  $lost_want $lost_mishap\n$scene $lost_help $lost_found\n$closing

lost_want:
  $His $relative had made $him $a [$size |]$look $thing:treasure.
  $His dearest treasure was $a [$size |]$look $thing:treasure.
  For $his birthday $he got $a [$size |]$look $thing:treasure from $his $relative.
  That $daytime $he found $a [$size |]$look $thing:treasure in $a $pack.
  $He never went anywhere without $his $colour $thing:treasure.
  At the market $he bought $a [$size |]$look $thing:treasure for $number $coins.

lost_mishap:
  But one $weather day $he lost it near the $place:site: it had slipped out of $his [hand|pocket|bag|arms|coat].
  $He played with it $at_spot until $a $naughty $bird carried it away.
  Then came $a $strong wind, and it flew over the $place:site.
  But when $he came home from the $place:site, it was gone.
  One day $he was $hobby.ing near the $place:site, and then $he could not find it.
  $He fell asleep in the $mood $place:site, and when $he woke up it was nowhere to be seen.

at_spot:
  near the $place:site
  by the $mood $place:site
  close to the $place:site

lost_help:
  $sad $meet "I have lost my $thing," $he $said[ $manner|]. $offer
  $looked $meet "$Oh!" it $said[ $manner|]. "Have you lost something?" "Yes, my $thing," $he said[ $manner|].
  $looked "$Oh!" $he said. "My $thing!" $meet $offer
  $sad "Where is my $thing?" $he $asked $manner. $meet $offer

looked:
  $He looked under [the|every] $furniture and behind [the|every] $plant, but it was not there.
  $He looked in $his $pack, and found only $bits.
  $He asked the $worker and the $trader, but nobody had seen it.
  $He searched from $daytime until night.
  $He looked for it among the $blossom.many and the $plant.many.

offer:
  "I will help you," it $said[ $manner|].
  "Do not cry," it said $manner. "I know that place well."
  "Follow me," it said, and ran [ahead|off] $manner.
  "My nose is very good," it $said[ $manner|]. "Let us go and look."
  "I saw something $colour this $daytime," it $said.
  "For $a $dish I would help anyone," it $said[ $manner|].

lost_found:
  They $went back together. There, under $a $look $container, lay the $thing!
  It $went through the $plant.many and came back with the $thing.
  Together they looked behind $a $size $plant, and there was the $thing, $wet but safe.
  It dug a hole and pulled $manner. Out came the $thing!
  They followed $number tiny tracks to the house of $a $naughty $beast, who gave the $thing back and said sorry.
  High up in $a $size $plant hung the $thing. Up they climbed and threw it down.
  In the end they found it in $a $size $home, between two $bits.

# ---- a garden --------------------------------------------------------------------------------------------------------

garden:
  $garden_want $garden_mishap\n$scene $garden_help $garden_end\n$closing

garden_want:
  One day $he got $a $size seed from $a $trait $worker. "It will be $a $flower:seedling," said the $worker_ending.
  $He wanted to grow $a $size $flower:seedling in $his garden.
  In $season $he planted $a $flower:seedling beside the $furniture.
  $He wished for $a $colour $flower:seedling more than for all the $goods in the world.
  $His $relative gave $him a pot and a seed. "Grow me $a $flower:seedling," said the note.

worker_ending:
  $trait $soul

garden_mishap:
  $He watered it every $daytime, but nothing grew.
  But the [summer|spring|weather] was too [dry|cold|wet|hot], and the little leaves turned $colour.
  Then $a $naughty $beast came and ate all the leaves.
  But the rain did not come, and the earth was as hard as [a rock|a brick|a bone|a board|a nut|iron|glass].
  $He sang to it and told it about $goods, but it only grew [thin|small|pale|sad].
  Every night $number $bug.many came to nibble at it.

garden_help:
  $sad $meet $advice
  $meet It looked at the $flower [for a long time|from all sides|with large eyes|through a glass]. $advice
  "$Oh!" $he said. "My poor $flower!" $meet $advice

advice:
  "Plants like company," it $said[ $manner|]. "Tell it a story about $animal.many."
  "It needs more sun," it $said[ $manner|]. "Put it near the $spot."
  "It is thirsty," it $said[ $manner|]. "Give it $number $container.many of water."
  "You must wait," it said $manner. "Good things are slow."
  "Put some $stuff around it," it $said. "My $relative always did so."
  "I can keep the $bug.many away," it said, "if you give me $goods."
  "It is $feeling because nobody sings to it," it $said[ $manner|].

garden_end:
  $He did so $manner, and [$number days|a week|a month] later it was as tall as $a $furniture.
  $He $manner did as $he was told. One $weather $daytime it opened, $colour and $fine.
  So they took care of it together, and in $season it had $number $colour blossoms.
  From then on it grew and grew, until $bird.many slept in it.
  Soon it was the $finest $around, and even the $trader came to see it.

# ---- a cake and the like ---------------------------------------------------------------------------------------------

kitchen:
  $kitchen_want $kitchen_mishap\n$scene $kitchen_help $kitchen_end\n$closing_hero

kitchen_want:
  It was the birthday of $his $elder:relative, and $he wanted to make $a $meal:cake.
  $He wanted to surprise $his $elder:relative with $a $meal:cake.
  "Let us make $a $meal:cake!" said $his $elder:relative one $weekday.
  $His $elder:relative had been ill all $season. "$A $meal:cake will help," $he thought.
  $He had never made $a $meal:cake before, but $his $elder:relative loved it above all.

kitchen_mishap:
  $He mixed the [flour|butter|eggs] with $goods and $stirred $manner. But $he [forgot the sugar|took salt for sugar].
  $He took $number eggs, some $goods and $a $size spoon. Then the bowl fell on the floor with $a $loud $noise.
  $He put it in the oven and went to $hobby. When $he came back, the kitchen was full of $colour smoke.
  But there were no $goods in the house, only $a $size jar of $stuff.
  Just then $a $naughty $beast jumped on the table and ran off with the $goods.
  $He $stirred it $manner with $a $tool, and it became as hard as [a rock|a brick|a bone|glass].

kitchen_help:
  $sad The $builder:helper next door heard $him. "$Oh! $comfort"
  "$Oh!" $he $said. Luckily $a $trait $builder:helper came by. "$comfort"
  $He ran to the $builder:helper, who was $feeling that day. "$comfort"
  Then came $a knock at the door. It was the $builder:helper with $a $container full of $goods. "$comfort"

comfort:
  Do not worry! We will try again.
  My first one was as flat as $a $beast!
  Everybody makes mistakes, even $animal.many!
  We need only $goods and some time!
  Dry your eyes, little $kind!
  I know what to do!

kitchen_end:
  They baked a new one with $goods on top. $ate
  Together they worked until $daytime. $ate
  The $builder brought $feast and showed $him how to do it. $ate
  This time $he was careful, and it came out $colour and [$fine|sweet]. $ate
  They covered it with $goods and called it the $hero $meal. $ate

ate:
  "This is the $finest $meal of my life," said $his $elder.
  $His $elder ate $number pieces and $laughed $manner.
  $His $elder was so $glad that they danced around the $furniture.
  $His $elder smiled and gave the $builder the biggest piece.
  Even the $bird.many at the window got some.

# ---- an animal in need -----------------------------------------------------------------------------------------------

rescue:
  $rescue_hear $rescue_find\n$scene $rescue_act $rescue_free\n$closing

rescue_hear:
  On the way to the $mood $place:site $he heard $a $loud $noise.
  $He $went along the $mood $place:site when something [moved|rustled|called] behind $a $plant.
  While $he was $hobby.ing near the $place:site, $he heard someone cry $manner.
  In the $mood $place:site $he found $number $size tracks and followed them.
  "Help!" called $a $size voice from the $place:site. $Hero $went there at once.

rescue_find:
  It was $a $furry $friend:animal$feature named $pet:petname, who was caught in $a $container.
  There sat $pet:petname, $a $furry $friend:animal$feature, and could not get out of $a $size hole.
  $A $furry $friend:animal had a thorn in its paw. Its name was $pet:petname.
  It was $pet:petname, $a $furry $friend:animal that had lost the way to its $home.
  There was $a $furry $friend:animal$feature under $a $size $plant. "I am $pet:petname," it said.

rescue_act:
  "Wait here," $he said, and ran home for $a $tool.
  $He was $feeling, but $he took $his $colour $clothes and made a rope.
  "Do not be afraid," $he $said[ $manner|]. "I have $a $tool in my $pack."
  "I will help you," $he said $manner. But how? $He had only $a $toy and some $goods.
  $He thought [hard|for a while]. Then $he fetched the $worker, who came with $a $tool.

rescue_free:
  $He pulled $manner until it was free.
  It took [an hour|all day|a long time], but at last it was free.
  [One, two, three|Push, pull, push], and out it came with $a $loud $noise!
  It held still, and soon it was all over. $thanked
  Soon it could walk again. $thanked
  $He carried it all the way to the $home and sang $manner. $thanked

thanked:
  "Thank you," it $said[ $manner|]. "I will never forget it."
  "You are as $trait as $a $beast," it $said[ $manner|].
  "You have a good heart," it said $manner.
  It gave $him $a $look $toy as a present.
  "Come to my $home," it said, "and eat $goods with me."

# ---- a journey -------------------------------------------------------------------------------------------------------

journey:
  $journey_wish $journey_go $journey_mishap\n$scene $journey_help $journey_end\n$closing

journey_wish:
  $He had one wish: to see the $mood $place:site [of $town|far away].
  $His $relative told $him about the $mood $place:site, where $animal.many $hobby.
  "Is it true that there are $colour $blossom.many near the $place:site?" $he asked $his $relative.
  In an old book $he saw a picture of $a $mood $place:site. "I will go there," $he said.
  Nobody $around had ever been to the $mood $place:site.

journey_go:
  So $he put $feast in $a $pack and set out in $a $look $boat:vehicle.
  One $weekday $he climbed into $his $colour $boat:vehicle and waved goodbye.
  $He borrowed $a $look $boat:vehicle from the $worker and left before $daytime.
  $He packed $number pieces of $stuff, $a $tool and $some_goods, and started $his $boat:vehicle.

some_goods:
  some $goods
  plenty of $goods
  a lot of $goods

journey_mishap:
  But on the second day $weather_bad, and it broke.
  Soon $weather_bad. It stood still.
  But somebody had turned the signs around, and it went the wrong way.
  $He drove for $number hours, until it sank into the mud.
  Halfway there it lost a piece with $a $loud $noise.

weather_bad:
  it began to [rain|snow|hail|thunder]
  $a $strong storm came up
  $a $colour fog came down
  the road turned to [mud|ice|sand]

journey_help:
  $sad $meet "Where do you want to go?" it $asked. "To the $place," $he $said[ $manner|].
  $meet It looked at the $boat and $laughed. "$repair"
  "$Oh!" $he $said[ $manner|]. "What now?" $meet "$repair" it $said[ $manner|].

repair:
  That is easy to mend!
  I have $a $tool and $number $animal.many to help!
  We need $a $tool and a piece of $stuff!
  Walking is better anyway!
  You should have asked $a $beast!
  Climb on my back!

journey_end:
  $Manner they mended the $boat with $stuff, and by $daytime they saw the $place. It was $fine.
  They $went on and on, and sang all the way, until the $place lay before them.
  It knew a short way, past the $spot of $town. They arrived, and it was more $fine than any dream.
  So they pushed it and told each other about $goods. At $daytime they reached the $place.
  At last they stood near the $place, where $number $bird.many flew over $colour $blossom.many.

# ---- building something ----------------------------------------------------------------------------------------------

build:
  $build_want $build_mishap\n$scene $build_help $build_end\n$closing_hero

build_want:
  $He wanted to build $a $size $hut:house for $his $relative.
  "I will build $a $hut:house," $he said, "the $finest $around!"
  All $animal.many need a home, $he thought, and began to build $a $hut:house.
  One $weekday $he took $a $tool and some $stuff to make $a $size $hut:house.
  There was nothing $he wanted more than $his own $hut:house near the $spot.

build_mishap:
  $He worked for $number days. Then $a $strong wind came, and it fell down with $a $loud $noise.
  But $his $tool broke, and then the $stuff was gone.
  But the walls were as crooked as $a $beast, and the roof was missing.
  It was almost ready when $a $size $beast leaned on it. Down it came!
  But $he had built it of $stuff, and in the first rain it became [soft|flat|wet|crooked].
  $He hit $his thumb with $a $tool, and everything fell over.

build_help:
  $sad The $builder:helper saw it and $went over. "$build_tip"
  $He went to the $builder:helper for help. "$build_tip"
  "$Oh!" $he $said[ $manner|]. The $builder:helper of $town put down $a $tool and $laughed. "$build_tip"
  "May I help?" $asked someone. It was the $builder:helper. "$build_tip"

build_tip:
  $Stuff is better than $soft_stuff!
  Begin at the bottom, not at the top!
  Two can build what one cannot!
  You need $a $tool, $number nails and $goods for lunch!
  Every $building has fallen down once!
  Measure it twice and cut it once!
  My own first $building fell on $a $beast!

soft_stuff:
  paste
  good luck
  dust and hope
  a dream

build_end:
  They worked together $manner, and before $season it was ready. $moved_in
  They took $look_many boards and $number ropes, and soon it stood. $moved_in
  $He carried and the $builder hammered. $moved_in
  This time they made it of $stuff and painted it $colour. $moved_in

look_many:
  strong
  long
  old
  thick
  yellow

moved_in:
  That night $number $animal.many moved in.
  $He put $a $look $furniture inside and invited everyone.
  It had $a $colour door and $number windows.
  "It is $fine," said $his $relative, and that was true.
  Even the $bird.many built a nest on its roof.
  They ate $feast on the roof and looked at the stars.

# ---- the market ------------------------------------------------------------------------------------------------------

market:
  $market_want $market_meet\n$scene $market_give $market_reward\n$closing

market_want:
  For $number weeks $he saved $money:coins to buy $a [$size |]$look $thing:treasure.
  In the shop of the $trader stood $a [$size |]$look $thing:treasure. How $he wanted it! $He had $number $money:coins.
  $He had $number $money:coins in $his $pack, just enough for $a $thing:treasure.
  With $number $money:coins $he went to the market. There were $toy.many and $a [$size |]$look $thing:treasure.
  $His $relative gave $him $number $money:coins to buy $a [$size |]$look $thing:treasure.

market_meet:
  But on the way to the $trader $he met $a $furry $friend:animal$feature called $pet:petname, who was very hungry.
  But in front of the shop sat $pet:petname, $a $furry $friend:animal$feature, and looked $sad_word.
  Beside the $trader sat $a $furry $friend:animal$feature. "I am $pet:petname," it said, "and I am so hungry."
  But then $a $furry $friend:animal$feature called $pet:petname said $manner, "My $home is broken!"

market_give:
  $He looked at the $thing, and then at $pet. $He bought $goods and gave them away.
  $He thought about it for a while. "Take my $money," $he said $manner.
  "You need it more than I do," $he said, and gave away all $his $money.
  "$A $thing can wait," $he $said. $He bought $a $dish, and they shared it.
  It was hard, but $he gave $pet the $money and went home.

market_reward:
  $A $trait $trader had seen it all. "Good hearts are rare," said the $trader_ending, and gave $him the $thing.
  Next $weekday there was $a $container at $his door. In it lay the $thing!
  That $daytime $number $animal.many came with presents, and one of them was the $thing.
  "I am $a $worker," $pet $said with a laugh, "and I can make you $a $thing." And so it was.
  $Pet came back with $a $tool and made the $finest $thing $around for $him.

trader_ending:
  $trait $soul

# ---- a concert -------------------------------------------------------------------------------------------------------

concert:
  $concert_want $concert_fear\n$scene $concert_help $concert_end\n$closing

concert_want:
  There was to be a feast in $town, and $he was to play the $flute:instrument.
  $He wanted to play the $flute:instrument for $his $relative.
  "Who can play the $flute:instrument at our feast?" asked the $worker. "I can," $he said $manner.
  $He got $a $look $flute:instrument from $his $relative and practised every $daytime.
  Nobody $around could play the $flute:instrument like $him.

concert_fear:
  But when $he saw all the people, $his [knees|hands|legs|fingers] began to shake.
  But on the $daytime of the feast the $flute made only $a $loud $noise.
  But $he was too shy to play for anyone but $his $toy.
  Then $he dropped the $flute, and it sounded like $a $beast.
  But then $a $naughty $beast hid inside the $flute, and no sound came out.
  But $he was afraid that everyone would laugh.

concert_help:
  $sad $meet "$courage" it $said[ $manner|].
  $He hid behind the $furniture. $meet "$courage" it said $manner.
  $meet "Why are you so $sad_word?" it asked. $He told everything. "$courage"
  $He ran to the $spot and wept. $meet "$courage" it $said.

courage:
  Play for me, and forget the others!
  I am afraid of $bug.many, and nobody laughs at me!
  Shut your eyes and think of $goods!
  Even $a $beast has to begin somewhere!
  Everyone is afraid at first!
  I will sing along with you!
  Take a deep breath and count to $number!

concert_end:
  So $he played, first $manner, then louder. $cheer
  $He thought of $goods and played $a $fine song about $animal.many. $cheer
  $He climbed on $a $furniture and began. $Pet danced $manner to the music. $cheer
  $He took the $flute and played until $daytime. $cheer

cheer:
  The people clapped and called for more.
  Even the $trait $worker wiped away a tear.
  $Number $bird.many came to listen.
  "$Fine!" cried the $trader. "Once more!"
  Everyone threw $blossom.many and $pastry.

# ---- a noise at night ------------------------------------------------------------------------------------------------

night:
  $night_hear $night_go\n$scene $night_find $night_share\n$closing

night_hear:
  One $weather night $he woke up. There was $a $loud $noise [in|behind|under] the $furniture.
  That night $he could not sleep. Something [knocked|scratched|bumped] against the $furniture.
  In the middle of the night $he heard $a $loud $noise from the $building.
  At midnight $number $size eyes looked in at the window.
  $His $relative was asleep when something walked over the roof with $a $loud $noise.

night_go:
  $He was $sad_word, but $he took $a $tool and $went down the stairs.
  "Who is there?" $he called $manner. Nobody answered.
  $He pulled the blanket over $his [head|ears|nose|face] and counted to $number.
  "Perhaps it is $a $size $beast," $he thought, "with $colour teeth."
  $He lit a candle, put on $his $colour $clothes and opened the door.
  $He held $his $toy very tight and listened.

night_find:
  But it was only $a $furry $friend:animal$feature who was looking for $goods. Its name was $pet:petname.
  Then $he laughed. There sat $pet:petname, $a $furry $friend:animal with $a $container on its head.
  It was $pet:petname, $a $furry $friend:animal that could not find its $home in the dark.
  "Please do not be afraid," said $a $furry $friend:animal$feature. "My name is $pet:petname, and I am $feeling."
  Out of the dark came $a $furry $friend:animal$feature named $pet:petname, $wet and very tired.

night_share:
  $He gave it $goods and a warm blanket.
  "Come in," $he said, and they ate $feast until $daytime.
  They sat on the $furniture and told each other about $bits.
  So $he made $a $dish, and the two talked about $goods.
  "I was more afraid than you," it $said[ $manner|]. Then both of them $laughed $manner.
  $He took $his $pack and walked with it all the way to the $home.

# ---- a quarrel -------------------------------------------------------------------------------------------------------

quarrel:
  $quarrel_friends $quarrel_about\n$scene $quarrel_sorry $quarrel_peace\n$closing

quarrel_friends:
  $His best friend was $pet:petname, $a $furry $friend:animal$feature.
  Every $daytime $he played with $a $furry $friend:animal$feature named $pet:petname.
  $He had a friend, $a $furry $friend:animal$feature called $pet:petname, who lived in $a $home near the $spot.
  One $weekday $pet:petname, $a $furry $friend:animal$feature, came to play.

quarrel_about:
  Both of them wanted the $look $thing:treasure. "It is mine!" $said $hero. "No, mine!" $said $pet. And then it broke.
  They found $a [$size |]$look $thing:treasure, and both held on to it. Then with $a $loud $noise the $thing broke.
  But $pet borrowed the $thing:treasure and did not ask. "You are $a $naughty $friend!" $he $said[ $manner|].
  They threw $a $colour $thing:treasure about until it fell into $a $size $container of $stuff. $He was [angry|cross].
  "My $thing:treasure is better than yours," $he $said[ $manner|]. $Pet said nothing and went home to the $home.

quarrel_sorry:
  All [day|morning|afternoon|week] $he sat alone and felt $sad_word. Without $pet it was no fun to $hobby.
  $He went home and kicked $a $furniture. But soon $he felt $sad_word.
  For $number days they did not speak. Then $his $relative said, "A friend is worth more than $a $toy."
  At night $he lay awake and thought of the $friend. $He was $sad_word.
  "I do not need $a $friend," $he said. But $his heart was heavy.

quarrel_peace:
  Next day $he went to the $home with $goods. "I am sorry," $he $said[ $manner|]. "So am I," it $said[ $manner|].
  $He took $a $tool and some $stuff and mended the $thing. Then $he brought it back.
  $He came to the $home. "It is your turn," $he said, and gave it the $thing.
  They met halfway, and both of them said sorry at the same time. Then they $laughed $manner.
  So $he made $a $dish with two spoons. $Pet came at once.

# ---- sentences that the plots share ----------------------------------------------------------------------------------

scene:
  $A $size $bird $sang $manner in $a $mood $plant.
  $Number $colour $bird.many flew over the $mood $spot.
  $A $strong wind blew through $colour $blossom.many and $mood $plant.many.
  The clouds looked like $size $animal.many and $colour $beast.many.
  The $colour $bug.many $sang $manner, and the $size $bird.many $sang.
  There was $a $loud $noise, and $a $naughty $beast $laughed $manner.
  The $spot lay [quiet|still|silent|peaceful|empty|dreaming|shining|sleeping] in the $weather $daytime.
  $A $naughty $beast and $a $naughty $bird $sang under $a $plant.
  $A $bird, $a $bug and $a $beast $sang near the $mood $spot.
  Somewhere $a $trait $worker and $a $trader $sang $manner.
  The air smelled of $fruit, $blossom.many and $stuff.
  $Number $bug.many $sang on $a $colour $blossom.
  $A $colour $container of $stuff stood near the $mood $building.

feature:
  [ with $colour $part| with $size $part| in $colour $clothes|]

around:
  in the valley
  in the world
  for miles around
  in all the land
  far and wide
  in the whole country

goods:
  $fruit
  $pastry
  $greens

feast:
  $fruit, $pastry and $greens
  $fruit and $pastry
  $greens, $fruit and $a $dish
  $pastry with $fruit
  $greens and $pastry
  $a $dish with $fruit

meet:
  Then $a $furry $friend:animal$feature came along. Its name was $pet:petname.
  $A $furry $friend:animal$feature named $pet:petname [heard|saw] $him.
  Just then $pet:petname the $friend:animal $went by.
  Out of $a $home_word came $a $furry $friend:animal$feature called $pet:petname.
  There sat $a $furry $friend:animal with $colour $clothes. "I am $pet:petname," it said.
  From behind $a $plant came $pet:petname, $a $furry $friend:animal with $a $container.
  Luckily $he met $a $furry $friend:animal$feature. It was $pet:petname, who was on the way to the $spot.

home_word:
  hole
  hollow tree
  haystack
  ditch

sad:
  $He sat down on $a $furniture and cried.
  $He felt $sad_word.
  "$Oh," $he said $manner.
  $He was so $sad_word that $he could not eat $his $goods.
  Poor $kind! $He wept $manner.
  $He did not know what to do.
  $He hung $his head and thought of $goods.

closing:
  From that $weekday on, $hero and $pet were friends and ate $feast together.
  $He gave $pet $a $dish, and they ate it near the $spot.
  That night $he slept [well|soundly|deeply|late|long] and dreamed of $animal.many.
  And every $weekday since then, $hero and $pet meet to $hobby.
  "$lesson" said $pet, and $he $laughed $manner.
  $He was $glad. $He hugged it and $laughed.
  And so $he learned something: $moral.
  They danced until $daytime, and $number $bird.many sang for them.
  $He went home, told $his $relative everything, and ate $feast for supper.
  To thank the $friend, $he made it $colour $clothes. $Pet wears them to this day.
  Since then there are always $pastry and $fruit in the $home.

closing_hero:
  From that $weekday on, $hero and the $builder were friends and ate $feast together.
  $Hero was $glad, and the $builder $laughed $manner.
  That night $he slept [well|soundly|deeply|late|long] and dreamed of $animal.many.
  And so $hero learned something: $moral.
  "$lesson" said the $builder, and they $laughed $manner.
  And if you go there, you can [still see it|hear them tell of it] today.
  To say thank you, $hero taught the $builder to $hobby.
  And every $weekday the $builder and $hero eat $feast together.

lesson:
  A friend is better than $a $container of gold!
  Tomorrow we will $hobby together!
  You are the $finest $kind I know!
  That was a day to remember!
  All is well that ends well!
  Two heads are better than one!

moral:
  it is good to share
  a small friend can be a great help
  nobody has to be alone
  it helps to ask for help
  patience is worth more than $coins
  every $beast can be a friend
  kind words cost nothing
  you can always try again
  being afraid is no shame
  the best things are not for sale
# ---- words: names ----------------------------------------------------------------------------------------------------

child(he him his kind) =
  Lily, Mia, Anna, Emma, Nora, Ella, Clara, Rosa, Ida, Greta, Alice, Lucy // she/her/her/girl
  Tom, Ben, Max, Paul, Leo, Oscar, Finn, Jack, Peter, Hugo, Emil, Henry // he/him/his/boy

petname =
  Pip, Bramble, Button, Pebble, Clover, Hazelnut, Mops, Nibbles, Twig, Whiskers, Thistle, Fidget, Pumpkin, Biscuit,
  Dot, Crumb, Tuffet, Bobbin, Muffin, Pepper

town =
  Appleford, Willowbrook, Oakham, Millbridge, Greenfield, Foxley, Thornbury, Elmswood, Ashdown, Riverton, Hillcote,
  Marshgate, Northwick, Southmoor, Eastbourne, Westerby, Larkspur, Heronsgate, Otterburn, Swanmere, Crowborough,
  Hawkshead, Badgerley, Hareswell, Stagford, Wrenthorpe, Finchfield, Rookdale, Gooseham, Lambton, Pigsty, Ramsbottom,
  Coldwater, Warmwell, Sunnyside, Rainham, Snowdon, Frostford, Windermere, Cloudcroft, Moonstone, Starling,
  Candleford, Lanternhill, Cherryhinton, Plumstead, Pearbury, Quincetown, Figtree, Nutley, Beechworth, Birchington,
  Cedarville, Pinewick, Maplethorpe, Rowanby, Alderton, Hollybush, Ivybridge, Fernhill, Heatherfield, Gorseley,
  Saltburn, Sandwick, Shellhaven, Pebbleton, Whalesea, Sealand, Anchorage, Sailmouth, Ropewalk, Netherby

weekday =
  Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday

# ---- words: people ---------------------------------------------------------------------------------------------------

relative =
  mother, father, grandmother, grandfather, aunt, uncle, sister, brother, cousin, godmother, godfather, stepmother

helper =
  baker, farmer, blacksmith, carpenter, miller, gardener, fisherman, postman, teacher, doctor, tailor, cobbler,
  shepherd, beekeeper

worker =
  baker, farmer, blacksmith, carpenter, miller, gardener, fisherman, postman, teacher, doctor, tailor, cobbler,
  shepherd, beekeeper, clockmaker, weaver, potter, mason, sailor, captain, cook, librarian, painter, butcher, barber,
  chimneysweep, woodcutter, gamekeeper, lighthousekeeper, ferryman, coachman, stableboy, milkmaid, goatherd,
  gooseherd, swineherd, cooper, wheelwright, saddler, glazier, plumber, locksmith, goldsmith, tinsmith, bricklayer,
  roofer, thatcher, basketmaker, ropemaker, sailmaker, candlemaker, soapmaker, papermaker, printer, bookbinder,
  scribe, schoolmaster, professor, scholar, poet, fiddler, drummer, piper, juggler, acrobat, clown, magician, dancer,
  singer, actor, puppeteer, storyteller, nurse, midwife, dentist, vet, chemist, herbalist, astronomer, inventor,
  engineer, mechanic, pilot, driver, conductor, signalman, watchman, constable, soldier

trader =
  merchant, pedlar, shopkeeper, grocer, greengrocer, florist, toymaker, bookseller, fishmonger, ironmonger, antiquary,
  auctioneer, confectioner, haberdasher, jeweller, stationer, tobacconist, draper, hatter, milliner, stallholder,
  salesman, trader, dealer, innkeeper, landlady, publican, costermonger, perfumer, optician

soul =
  man, woman, gentleman, lady, stranger, neighbour, fellow, wanderer, traveller, visitor, passer-by, widow, bachelor

# ---- words: animals and plants ---------------------------------------------------------------------------------------

animal(many home) =
  fox, badger, wolf/wolves // -/den
  rabbit, mole, hamster // -/burrow
  mouse/mice, rat, shrew // -/hole
  squirrel, magpie, raven // -/nest
  hedgehog, toad, lizard // -/garden
  frog, duckling, otter // -/pond
  donkey, pony, foal // -/stable
  lamb, kid, goat // -/barn
  bat, owl, cat // -/attic
  monkey, lemur, sloth // -/tree

beast(many) =
  lion, elephant, giraffe, camel, hippo, rhino, crocodile, alligator, buffalo, tiger, leopard, panther, cheetah,
  zebra, antelope, gazelle, moose/moose, elk/elk, reindeer/reindeer, bison/bison, walrus, whale, dolphin, shark,
  octopus, squid, penguin, ostrich, emu, flamingo, pelican, vulture, eagle, falcon, peacock, turkey, rooster, bulldog,
  poodle, terrier, dachshund, spaniel, sheepdog, greyhound, gorilla, baboon, chimpanzee, orangutan, kangaroo,
  anteater, tapir, yak, llama, alpaca, dragon, unicorn, griffin, goblin, troll, ogre, giant, witch

bird(many) =
  sparrow, robin, wren, finch, lark, thrush, blackbird, swallow, cuckoo, nightingale, woodpecker, starling, crow,
  rook, gull, dove, goldfinch, bullfinch, chaffinch, greenfinch, linnet, nuthatch, treecreeper, blue tit, wagtail,
  pipit, skylark, redstart, whinchat, stonechat, warbler, chiffchaff, blackcap, goldcrest, firecrest, waxwing,
  dunnock, yellowhammer, bunting, kingfisher, dipper, oriole, hoopoe, bee-eater, swift, martin

bug(many) =
  snail, beetle, ant, caterpillar, slug, wasp, moth, fly, spider, grasshopper, ladybird, bumblebee, earwig, cricket,
  gnat, midge, mosquito, hornet, dragonfly, damselfly, butterfly, firefly, glowworm, centipede, millipede,
  woodlouse/woodlice, termite, cockroach, weevil, locust, aphid, greenfly, cicada, mantis/mantises, leafhopper,
  silverfish/silverfish, flea, louse/lice, mite, tick

seedling =
  rose, tulip, daisy, sunflower, lily, poppy, violet, bluebell, daffodil, primrose, pansy, marigold, crocus, lavender

blossom(many) =
  rose, tulip, daisy, sunflower, lily, poppy, violet, bluebell, daffodil, primrose, pansy, marigold, crocus, lavender,
  peony, dahlia, foxglove, forget-me-not, hollyhock, snapdragon, carnation, geranium, petunia, begonia, hyacinth,
  iris, orchid, lupin, aster, chrysanthemum, cornflower, buttercup, cowslip, harebell, anemone, jasmine, honeysuckle,
  magnolia, camellia, azalea, gladiolus, freesia, zinnia, nasturtium

plant(many) =
  tree, bush, oak, hedge, willow, fir, rock, fern, pine, birch, elm, maple, hazel, holly, log, boulder, stump,
  haystack, thornbush, bramble, rosebush, apple tree, pear tree, chestnut, walnut tree, linden, poplar, alder, rowan,
  yew, cedar, larch, spruce, beech, sycamore, hawthorn, blackthorn, elder, juniper bush, cypress, acacia, palm,
  cactus, bamboo, mushroom, toadstool

# ---- words: things ---------------------------------------------------------------------------------------------------

treasure =
  kite, ball, doll, drum, teddy bear, spinning top, toy boat, puppet, rocking horse, marble, balloon, whistle, hoop,
  yo-yo, music box, lantern, storybook, magnet, telescope, compass

toy(many) =
  kite, ball, doll, drum, teddy bear, spinning top, toy boat, puppet, rocking horse, marble, balloon, whistle, hoop,
  yo-yo, music box, lantern, storybook, magnet, telescope, compass, pocket watch, necklace, ring, bracelet, crown,
  feather, locket, mirror, paintbox, skipping rope, tambourine, trumpet, rattle, toy train, tin soldier, paper boat,
  windmill, boomerang, pinwheel, slingshot, snow globe, jigsaw, dice box, chessboard, rag doll, dollhouse, scooter,
  tricycle, sled, skateboard, umbrella, parasol, fan, mask, cape, wand, flag, bell, penny whistle, rubber duck,
  cuckoo clock, hourglass, kaleidoscope, magnifying glass, microscope, sundial, globe, medal, badge, brooch, pendant,
  ruby, emerald, sapphire, diamond, crystal, seashell, fossil, arrowhead, pinecone, horseshoe

instrument =
  flute, violin, trumpet, drum, guitar, harp, piano, fiddle, accordion, recorder

tool =
  hammer, spade, ladder, rope, saw, rake, broom, shovel, needle, hook, bucket, stick, pair of scissors, wrench,
  screwdriver, chisel, lantern, crowbar, wooden spoon, fork, brush, sponge, mop, file, drill, axe, hatchet, plane,
  vice, anvil, pitchfork, hoe, sickle, scythe, trowel, watering can, wheelbarrow, pulley, winch, lever, plank, pole,
  oar, paddle, fishing rod, net, whisk, ladle, rolling pin, sieve

container(many) =
  basket, box, bucket, barrel, jar, sack, net, pot, chest, crate, tub, cage, teapot, boot, hat, drawer, bowl, jug,
  bottle, cauldron, suitcase, trunk, flowerpot, watering can, kettle, saucepan, dustbin, letterbox, birdhouse,
  beehive, hamper, hatbox, cradle, bathtub, washtub, rain barrel, milk can, biscuit tin, cookie jar, pillowcase

pack =
  bag, basket, box, rucksack, pocket, satchel, pouch, suitcase, bundle, backpack, purse, handbag, sack, briefcase,
  wallet, knapsack, haversack, shoebox, lunchbox

furniture =
  chair, table, bench, bed, stool, sofa, cupboard, stove, shelf, wardrobe, armchair, desk, barrel, bookcase, dresser,
  mattress, carpet, doormat, footstool, piano stool, washstand, sideboard, bunk, couch, cabinet, clothesline, bathtub,
  fireplace, grandfather clock, mantelpiece, chimney, staircase, doorstep, windowsill, bannister, lamp, chandelier,
  bedstead, cot, crib

clothes =
  boots, mittens, shoes, socks, gloves, trousers, stockings, slippers, pyjamas, sandals, overalls, clogs, breeches,
  leggings, ribbons, earmuffs, spectacles, braces, shorts, dungarees, wellingtons, galoshes, moccasins, suspenders,
  tights, jeans, garters, cuffs, goggles, beads, buttons, curls, sleeves

vehicle =
  boat, cart, sledge, wagon, balloon, coach, bicycle, raft, rowing boat, canoe, train, tractor

house =
  house, shed, hut, bridge, tower, treehouse, birdhouse, windmill, barn, doghouse, castle, cabin

building =
  house, shed, hut, bridge, tower, treehouse, birdhouse, windmill, barn, doghouse, castle, cabin, cottage, playhouse,
  stable, henhouse, greenhouse, dovecote, lighthouse, well, gazebo, pavilion, theatre, bakery, mill, chapel, palace,
  fortress, tent, boathouse, bathhouse, workshop, garage, kiosk, cellar, porch, balcony, pigsty, sheepfold, fountain

stuff =
  straw, wood, clay, mud, sand, wool, honey, glue, paper, wax, moss, cork, leather, string, cardboard, sugar, butter,
  cheese, bread, chalk, felt, silk, cotton, linen, velvet, canvas, tin, copper, brass, iron, steel, silver, gold,
  lead, glass, stone, marble, slate, gravel, plaster, cement, tar, rubber, plastic, bamboo, willow bark, hay, ivy,
  soap, ink, paint, varnish, oil, vinegar

bits =
  pebbles, buttons, feathers, acorns, marbles, shells, nuts, leaves, stones, chestnuts, crumbs, stamps, bottle caps,
  pencils, conkers, pinecones, twigs, beads, corks, nails, screws, cogs, springs, ribbons, strings, stickers,
  postcards, maps, secrets, riddles, stories, jokes, poems, dreams, keys, matchboxes, candles, tickets, cards, dice,
  seeds, bones, teeth, magnets, needles, thimbles

coins =
  coins, pennies, shillings, farthings, pounds, pieces of silver, dollars, crowns, ducats, florins, sixpences,
  gold coins, guineas, copper coins, nickels, dimes

# ---- words: food -----------------------------------------------------------------------------------------------------

cake =
  cake, pie, pudding, soup, apple pie, tart, stew, pancake, salad, omelette, sandwich, cheesecake, carrot cake,
  plum cake

dish =
  cake, pie, pudding, soup, apple pie, tart, stew, pancake, salad, omelette, sandwich, cheesecake, carrot cake,
  plum cake, trifle, muffin, strudel, casserole, pizza, lasagne, dumpling, waffle, biscuit, scone, bun, loaf, pretzel,
  crumble, cobbler, flan, sponge, gateau, gingerbread house, fruit salad, milkshake, smoothie, porridge, risotto,
  goulash, curry, chowder, broth, fondue, roast, meatloaf, pasty, quiche

fruit =
  apples, berries, plums, cherries, pears, grapes, strawberries, raspberries, oranges, lemons, peaches, apricots,
  bananas, blueberries, blackberries, gooseberries, currants, raisins, figs, dates, melons, limes, tangerines,
  pomegranates, quinces, elderberries, cranberries, mulberries, rosehips, mangoes, papayas, pineapples, coconuts,
  kiwis, nuts, walnuts, almonds, hazelnuts, peanuts, cashews

pastry =
  pancakes, biscuits, waffles, muffins, buns, rolls, pretzels, crackers, pies, tarts, cookies, doughnuts, dumplings,
  noodles, sandwiches, toffees, lollipops, sweets, peppermints, caramels, crumpets, scones, macaroons, marshmallows,
  cupcakes, gingersnaps, croissants, baguettes, bagels, toasts, rusks, wafers, fritters, brownies, flapjacks,
  shortbreads, turnovers, strudels, meringues, nougats

greens =
  carrots, mushrooms, potatoes, beans, peas, onions, tomatoes, pumpkins, cucumbers, radishes, turnips, beetroots,
  leeks, lentils, olives, pickles, peppers, aubergines, artichokes, cauliflowers, cabbages, sprouts, parsnips, yams,
  chickpeas, courgettes, gherkins, shallots, chives, swedes, lettuces, kohlrabis, sausages, meatballs, eggs,
  omelettes, oysters, sardines, shrimps, oats

# ---- words: places and times -----------------------------------------------------------------------------------------

site =
  forest, river, lake, meadow, hill, bridge, mill, garden, mountain, beach, harbour, castle, field, pond, park,
  valley, old well, orchard, island, sea

spot =
  forest, river, lake, meadow, hill, bridge, mill, garden, mountain, beach, harbour, castle, field, pond, park,
  valley, old well, orchard, island, sea, cave, swamp, market square, lighthouse, railway station, church, school,
  waterfall, brook, quarry, windmill, ruin, crossroads, marsh, moor, heath, desert, glacier, volcano, canyon, cliff,
  bay, lagoon, jungle, prairie, vineyard, cornfield, wheatfield, pasture, paddock, graveyard, monastery, palace,
  watchtower, drawbridge, dungeon, town hall, theatre, circus, fairground, playground, bakery, brewery, sawmill,
  dairy, smithy, stables, library, museum, zoo, aquarium, greenhouse, hospital

season =
  spring, summer, autumn, winter, May, June, April, July, August, September, October, March, November, December,
  January, February

daytime =
  morning, evening, afternoon, dawn, noon, dusk, sunrise, sunset, midday, nightfall

age =
  seven, six, eight, nine, five, ten, eleven, twelve, thirteen

number =
  three, two, four, five, seven, six, ten, eight, a hundred, twelve, nine, twenty, a dozen, fifteen, thirty, eleven,
  forty, fifty, a thousand, thirteen, nineteen, sixty, seventy, eighteen, seventeen, sixteen, fourteen, eighty,
  ninety, a million

# ---- words: what people and things are like --------------------------------------------------------------------------

trait =
  kind, brave, curious, clever, gentle, cheerful, shy, quiet, friendly, patient, lively, honest, merry, polite,
  stubborn, bold, dreamy, careful, generous, thoughtful, helpful, playful, funny, wise, proud, loyal, modest, nimble,
  daring, tender, jolly, impatient, restless, forgetful, bashful, cautious, adventurous, fearless, hopeful,
  imaginative, inventive, diligent, tidy, untidy, talkative, silent, serious, mischievous, absent-minded,
  good-natured, hard-working, warm-hearted, light-hearted, sensible, sincere, trusting, truthful, plucky, spirited,
  witty, graceful, clumsy, dainty, sturdy

childlook =
  little, small, tall, red-haired, freckled, fair-haired, dark-haired, curly-haired, thin, round, barefoot,
  long-legged, pale, rosy-cheeked, blue-eyed, brown-eyed, green-eyed, big-eared, gap-toothed, snub-nosed,
  bespectacled, suntanned, curly-headed, young, slim, stocky, well-dressed, scruffy, dimpled, ginger-haired

part =
  ears, eyes, paws, whiskers, feet, teeth, eyebrows, cheeks, toes, spots, stripes, eyelashes, claws, knees, legs,
  shoulders, freckles, elbows, lips, nostrils, dimples

furry =
  little, small, young, old, friendly, fluffy, tiny, brown, grey, clever, shy, round, plump, furry, cheerful, thin,
  spotted, striped, white, black, hungry, wet, tired, polite, muddy, dusty, lame, short-sighted, long-legged,
  bushy-tailed, wide-eyed, sharp-nosed, scruffy, shaggy, sleek, silky, woolly, prickly, speckled, freckled, golden,
  silvery, reddish, snow-white, coal-black, sandy, chubby, skinny, lanky, tubby, stout, elegant, dapper, ragged,
  shabby, drowsy, sleepy, grumpy

naughty =
  naughty, cheeky, big, greedy, hungry, wild, angry, rude, sly, thieving, wicked, grumpy, silly, crafty, bad-tempered,
  mischievous, enormous, sneaky, spiteful, selfish, nasty, quarrelsome, boastful, jealous, cunning, unfriendly, cross,
  moody, snappish, stubborn, bossy, meddlesome, careless, noisy, disobedient, ill-mannered, fierce, ferocious, savage,
  ravenous

look =
  red, blue, wooden, shiny, golden, little, green, beautiful, old, new, yellow, silver, painted, pretty, colourful,
  tiny, round, soft, white, bright, strange, magic, striped, precious, plain, polished, carved, woven, knitted,
  embroidered, patched, crooked, rusty, dusty, sparkling, glittering, gleaming, glowing, transparent, velvet, silken,
  leather, copper, brass, iron, clay, marble, ivory, pearly, crimson, scarlet, turquoise, violet, checkered, spotted,
  dotted, flowery, starry, rainbow-coloured, old-fashioned, modern

colour =
  red, blue, green, yellow, white, brown, black, grey, pink, purple, orange, golden, silver, violet, crimson, scarlet,
  turquoise, beige, ivory, lilac, maroon, rosy, amber, azure, emerald, indigo, khaki, mauve, olive, peach-coloured,
  pale blue, dark green, bright red, snow-white, pitch-black, bluish, greenish, yellowish

size =
  small, big, little, tiny, large, long, huge, great, narrow, wide, enormous, tall, giant, thick, thin, short,
  gigantic, mighty, miniature, vast, massive, colossal, tremendous, immense, slender, broad, bulky, minute, petite,
  towering, spacious, cramped

old =
  old, little, quiet, sleepy, famous, friendly, pretty, small, rich, poor, ancient, sunny, windy, busy, peaceful,
  dusty, forgotten, cheerful, venerable, remote, grey-haired, respectable, honourable, bustling, humble, lonely

mood =
  dark, quiet, green, old, deep, wide, sunny, lonely, cold, windy, silent, misty, beautiful, blue, wild, peaceful,
  shady, distant, gloomy, foggy, frozen, ancient, haunted, mossy, rocky, sandy, muddy, stony, steep, hidden, secret,
  forgotten, deserted, empty, endless, famous, golden, moonlit, starlit, sunlit, snowy, icy, rainy, stormy, breezy,
  thorny, grassy, flowery, leafy, tangled, overgrown

weather =
  sunny, rainy, cold, warm, windy, foggy, bright, snowy, cloudy, frosty, stormy, clear, grey, hot, mild, misty, fresh,
  wet, cool, dry, chilly, golden, gloomy, drizzly, icy, thundery, breezy, hazy, damp, muggy, sultry, crisp, blustery,
  overcast, freezing, sweltering

strong =
  strong, cold, wild, terrible, sudden, mighty, fierce, violent, icy, furious, howling, raging, roaring, warm, bitter,
  gusty, savage

fine =
  beautiful, wonderful, lovely, fine, splendid, marvellous, perfect, glorious, grand, delightful, charming,
  magnificent, superb, fantastic, gorgeous, excellent, amazing, astonishing, enchanting, dazzling, exquisite,
  brilliant, remarkable, extraordinary, incredible, unforgettable, breathtaking, heavenly, fabulous, stunning,
  radiant, majestic, stately, noble, admirable

finest =
  best, finest, loveliest, sweetest, prettiest, greatest, strangest, funniest, grandest, kindest, cleverest, biggest,
  rarest, noblest, merriest, brightest, dearest, bravest, wisest, oddest, proudest, luckiest, happiest, jolliest,
  boldest

feeling =
  happy, hungry, tired, cheerful, sleepy, excited, curious, merry, lonely, bored, thirsty, glad, nervous, proud,
  restless, calm, lazy, brave, hopeful, dreamy, puzzled, confused, content, grumpy, homesick, lucky, worried, busy,
  wide awake, peaceful, adventurous, giddy, dizzy, hoarse, sneezy, gloomy, optimistic, romantic, poetic, mellow

sad_word =
  sad, unhappy, afraid, sorry, lonely, ashamed, worried, miserable, frightened, anxious, nervous, upset, gloomy,
  scared, helpless, downcast, desperate, disappointed, heartbroken, hopeless, tearful, timid, troubled, uneasy,
  forlorn, glum, dejected, disheartened, sorrowful, wretched, terrified, alarmed, horrified, bewildered, embarrassed,
  guilty

glad =
  happy, glad, proud, pleased, delighted, thankful, grateful, relieved, overjoyed, thrilled, cheerful, joyful,
  content, satisfied, amazed, enchanted, touched, moved, blissful, jubilant, ecstatic, elated, radiant

wet =
  wet, muddy, dusty, dirty, cold, scratched, sticky, bent, torn, dented, tangled, crumpled, soaked, filthy, frozen,
  sandy, dripping

loud =
  loud, terrible, strange, soft, dull, sharp, funny, sudden, faint, mighty, dreadful, frightful, hollow, muffled,
  shrill, deafening, piercing, horrible, peculiar, mysterious, gentle, squeaky, rusty, tinny, booming, ghostly,
  thunderous, rhythmic

noise =
  crash, bang, noise, sound, crack, thud, squeak, rumble, splash, groan, whistle, rattle, clatter, pop, bump, rustle,
  buzz, hum, screech, howl, sigh, snap, creak, thump, clang, clank, clink, jingle, knock, murmur, roar, hiss, fizz,
  gurgle, hoot, cackle, yelp, squeal, snort, sneeze

# ---- words: what they do ---------------------------------------------------------------------------------------------

hobby(ing) =
  dance, sing, paint, play, read, climb trees/climbing trees, fish, draw, swim/swimming, run/running, skip/skipping,
  whistle, bake, cook, tell stories/telling stories, pick berries/picking berries,
  catch butterflies/catching butterflies, ride/riding, dream, sew, knit/knitting, write letters/writing letters,
  count clouds/counting clouds, jump/jumping, skate, sail, row, hike, wander, explore, build towers/building towers,
  collect stones/collecting stones, juggle, yodel, laugh, daydream, chat/chatting, fly kites/flying kites,
  feed ducks/feeding ducks, play chess/playing chess, watch birds/watching birds, hum/humming,
  do handstands/doing handstands, make music/making music, solve riddles/solving riddles,
  watch the stars/watching the stars, blow bubbles/blowing bubbles, carve whistles/carving whistles,
  chop wood/chopping wood, gallop, cartwheel, camp, bathe, splash, paddle, dive, ski/skiing

went =
  ran, walked, hurried, went, marched, crept, rushed, skipped, trotted, wandered, jumped, hopped, strolled, raced,
  galloped, crawled, climbed, tiptoed, danced, stumbled, dashed, scurried, scampered, limped, plodded, trudged,
  waddled, hobbled, strode, sped, sneaked, slipped, darted, sauntered, ambled, bounced, bounded, shuffled, staggered,
  tumbled

sang =
  sang, slept, danced, waited, dreamed, hummed, rested, argued, chattered, worked, whistled, quarrelled, played,
  snored, listened, talked, breakfasted, dozed, watched, gossiped, practised, shivered, feasted, grumbled, twittered,
  wept, prayed, juggled, trembled, rejoiced, exercised, yodelled, laboured, celebrated, lunched, dined, meditated,
  bathed, sulked, squabbled

laughed =
  laughed, smiled, nodded, giggled, chuckled, grinned, sang, winked, sighed, whistled, hummed, cheered, clapped,
  blushed, beamed, bowed, snorted, sneezed, yawned, purred, rejoiced, shrugged, coughed, hiccuped, trembled

said =
  said, cried, whispered, called, shouted, laughed, answered, replied, murmured, sighed, exclaimed, explained,
  declared, muttered, mumbled, sobbed, announced, added, began, insisted, suggested, promised, admitted, stammered,
  stuttered, squeaked, growled, grumbled, protested, remarked, repeated, boasted, chirped, croaked, hissed, yelled,
  screamed, bellowed, gasped, groaned

asked =
  asked, wondered, inquired, called, whispered, begged, demanded, cried

stirred =
  stirred, mixed, whisked, beat, kneaded, shook, worked, hummed, churned, pounded, squeezed, tasted, measured,
  sprinkled

manner =
  softly, happily, quietly, loudly, gently, slowly, quickly, cheerfully, sadly, bravely, carefully, kindly, merrily,
  politely, sweetly, proudly, eagerly, shyly, calmly, patiently, gladly, sleepily, nervously, wildly, gracefully,
  solemnly, dreamily, secretly, joyfully, warmly, tenderly, thoughtfully, clumsily, peacefully, firmly, honestly,
  boldly, anxiously, awkwardly, briskly, busily, curiously, daintily, earnestly, fiercely, fondly, frantically, gaily,
  gravely, heartily, hopefully, impatiently, innocently, jokingly, lazily, lightly, lovingly, majestically, modestly,
  mysteriously, neatly

oh =
  oh dear, oh no, goodness me, dear me, alas, good heavens, oh my, bless me, oh, what a pity, what bad luck,
  my goodness, good gracious, fiddlesticks, bother, botheration, dash it, crikey, golly, gosh, jumping jellybeans,
  leaping lizards, mercy, great snakes, thunder and lightning, heavens above, by my whiskers, hoppity-hop, nonsense,
  rats, blimey, wow, yikes, ouch, phooey, drat
)grammar";
